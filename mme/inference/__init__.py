"""From a fit to statements about its parameters, for results of both doors."""
