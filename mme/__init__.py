"""Linear mixed models by Henderson's mixed-model equations over sparse block designs."""
