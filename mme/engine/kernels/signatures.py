"""The types that kernels are called with, by what needs them: what there is to compile, and with what.

A word is a type of Numba's; in brackets the dimensions of an array, F where it is in Fortran order instead of
C, R where it is read-only (see `mme.engine.runtime.arrays`). Within a group, what a fit needs last comes
first: a second process begins at that end (see `mme.engine.runtime.warm`).
"""

__all__ = ["AHEAD", "GROUPS"]

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "lead": {  # one factor
        "small.evaluate_lead": (
            "int64 bool int64[2] float64[1] float64[3] float64[3] float64[2] float64[3] float64[3] "
            "float64[1] float64[2] float64[1] float64[2] float64[2] float64[2] float64[2]",
        ),
    },
    "one": {  # what every direct fit needs
        "cone.newton_step": (
            "float64[3] float64[1] float64[2] float64[1] float64 float64 int64[1] int64[1] float64[1] "
            "float64[2]",
        ),
        "schur.level_factors": (
            "int64 int64 float64[3] float64[2] float64[2] float64[3] float64[3] float64[3]",
        ),
        "triangle.triangular_factor": ("float64[2] float64[2]",),
        "cells.level_blocks": ("int64 int64 int32[1] int64[1] float64[2R] float64[2] float64[3] float64[3]",),
        "cells.counting_sort": ("int32[1] int64",),
        "rows.basis_and_residual": (
            "int64 int64 float64[2R] float64[1R] float64[2] float64[1] float64[2] float64[2]",
        ),
        "triangle.inverse_cholesky": ("float64[2] float64[2]",),
        "schur.level_information": (
            "int64 int64 float64[2] float64[3] float64[3] float64[3] float64[3] float64[2] float64[2]",
        ),
    },
    "search": {  # small models of one factor whose search is long or meets the boundary
        "newton.correct": ("int64[1] int64[2] float64[4] float64[3] float64[2] float64[3]",),
        "cone.minimise_over_cone": ("float64[3] float64[1] float64[2] int64[1] int64[1] int64",),
        "newton.advance": (
            "int64[1] float64[1] int64[2] int64[2] float64[4] float64[3] float64[2] float64[3] float64[3] "
            "float64[1] float64[1] float64[1]",
        ),
    },
    "few": {  # small models of several factors
        "several.evaluate_several": (
            "int64 int64[2] int64[1] int32[1] float64[3] float64[3] float64[2] float64[1] float64[3] "
            "float64[3] float64[2] float64[2] float64[3] float64[3] float64[1] float64[2] float64[2] "
            "float64[1] float64[3] float64[2] float64[1] float64[3] float64[2]",
        ),
    },
    "several": {  # several terms
        "schur.cells_tdot": ("int64 int64 int64[1] int32[1] int32[1] float64[2] float64[3] float64[2]",),
        "cells.cell_moments": (
            "int64 int64 int64[1] int32[1] float64[2] int64 int64 int64 int64 float64[1] float64[1] "
            "float64[2] float64[2]",
        ),
        "cells.transpose_cells": ("int64 int64 int64[1] int64 int32[1] int64[1] int32[1] int32[1]",),
        "cells.fill_cells": (
            "int64 int64 int32[1] int64[1] int64[1] int64 int32[1] float64[1R] float64[2R] int64 "
            "int64[1] int32[1] float64[2]",
        ),
        "cells.count_cells": ("int64 int64 int32[1] int64[1] int64[1] int64 int32[1] int64 int64[1]",),
        "cells.column_pointers": ("int32[1] int64",),
        "cells.rows_times": ("int64[1] int64 int32[1] float64[1R] float64[2] float64[2]",),
    },
    "dense": {  # a dense Schur complement
        "traces.traces_dense": (
            "int64 int64 int64[1] int32[1] float64[3] int64[1] int32[1] float64[2] int64[1] int32[1] "
            "int32[1] float64[3] float64[2F] float64[2] float64[3]",
        ),
        "schur.cells_dot": ("int64 int64 int64[1] int32[1] float64[2] float64[2] float64[3]",),
        "schur.schur_dense": (
            "int64 int64 int64[1] int32[1] float64[1] float64[3] int64[1] int32[1] float64[2] int64[1] "
            "int32[1] int32[1] float64[3] int64[1] int32[1] float64[1] float64[2F]",
        ),
    },
    "sparse": {  # a sparse one
        "traces.traces_sparse": (
            "int64 int64 int64[1] int32[1] int32[1] float64[3] int64[1] int32[1] float64[2] int64[1] "
            "int32[1] int32[1] float64[3] int64[1] int32[1] float64[1] float64[2] float64[3]",
        ),
        "selected_inverse.small_fronts": (
            "int64[1] int64[1] int64[1] int64[1] int64[1] int32[1] int64[1] bool[1] float64[1] float64[1]",
        ),
        "selected_inverse.scatter_factor": (
            "int64[1] int32[1] float64[1] float64[1] int64[1] int64[1] int64[1] int64[1] int32[1] "
            "int64[1] float64[1]",
        ),
        "schur.schur_sparse": (
            "int64 int64 int64[1] int32[1] float64[1] int32[1] float64[3] int64[1] int32[1] float64[2] "
            "int64[1] int32[1] int32[1] float64[3] int64[1] int32[1] float64[1] int64[1] int32[1] float64[1]",
        ),
        "schur.fill_schur": (
            "int64 int64 int64[1] int64[1] int32[1] int64[1] int32[1] int32[1] int64[1] int32[1] "
            "int64[1] int32[1]",
        ),
        "schur.count_schur": (
            "int64 int64 int64[1] int64[1] int32[1] int64[1] int32[1] int32[1] int64[1] int32[1] int64[1]",
        ),
        "elimination_tree.supernode_maps": (
            "int64[1] int64[1] int64[1] int32[1] int64[1] int64[1] int32[1] int64[1]",
        ),
        "elimination_tree.supernode_rows": ("int64[1] int64[1] int64[1] int64[1] int32[1]",),
        "elimination_tree.find_supernodes": ("int64[1] int64[1] float64",),
        "elimination_tree.column_counts": ("int64[1] int32[1] int64[1]",),
        "elimination_tree.permuted_lower": ("int64 int64[1] int32[1] int64[1]",),
        "elimination_tree.postorder": ("int64[1]",),
        "elimination_tree.elimination_tree": ("int64 int64[1] int32[1] int64[1]",),
        "elimination_tree.schedule": ("int64[1] int64[1] int64[1]",),
    },
    "iterative": {  # the iterative solver
        "iterative.block_trace": (
            "int64 int64 int64[1] int32[1] float64[3] float64[3] int64[1] int32[1] float64[2] "
            "float64[3] float64[2]",
        ),
        "iterative.redirect": (
            "int64 int64 int32[1] float64[1] float64[2] float64[2] float64[2]",
            "int64 int64 int32[1] float64[1] float64[2F] float64[2] float64[2]",
        ),
        "iterative.advance": (
            "int64 int64 int64[1] float64[3] int32[1] float64[1] float64[2] float64[2] float64[2] "
            "float64[2] float64[2] float64[1] float64[2]",
        ),
        "iterative.rest_product": (
            "int64 int64 int64[1] int32[1] float64[3] int64[1] int32[1] float64[1] int64[1] int32[1] "
            "float64[2] float64[2] float64[3] float64[2] float64[2] float64[1]",
            "int64 int64 int64[1] int32[1] float64[3] int64[1] int32[1] float64[1] int64[1] int32[1] "
            "float64[2] float32[2] float32[3] float64[2] float64[2] float64[1]",
        ),
        "iterative.lead_product": (
            "int64 int64 int64[1] int32[1] float64[2] float64[2] float64[3] float64[3] int64",
            "int64 int64 int64[1] int32[1] float64[2] float32[2] float64[3] float32[3] int64",
            "int64 int64 int64[1] int32[1] float64[2] float32[2] float64[3] float64[3] int64",
        ),
        "iterative.sparse_pass": ("int64 int64 int64[1] int32[1] float64[1] float64[2] float64[2]",),
        "iterative.rest_pass": ("int64 int64 int64[1] int32[1] float64[2] float64[3] float64[2]",),
        "iterative.block_solve": ("int64 int64 int64[1] float64[3] float64[2] float64[2]",),
        "iterative.apply_blocks": (
            "int64 int64 int64[1] int32[1] float64[3] float64[2] float64[2] bool",
            "int64 int64 int64[1] int32[1] float64[3] float64[2] float32[2] bool",
        ),
        "iterative.weigh": ("int64 int64 float64[3] float64[3]",),
        "iterative.diagonal_blocks": (
            "int64 int64 int64[1] int32[1] float64[3] int64[1] int32[1] float64[1] int64[1] int32[1] "
            "float64[2] float64[3] float64[3]",
        ),
    },
    "many": {  # many responses on one design
        "batch.fit_responses": (
            "int64 int64 float64[3] float64[2] float64[2] float64[1] float64[2] float64[1] int64[1] "
            "float64[2] float64[1] float64[3] int64[2] int64[1] float64[1] int64[2] int64[2] float64[4] "
            "float64[3] float64[2] float64[3] float64[3] float64[1] float64[1] int64[2] int64[2] float64[1] "
            "float64[3] int64[1] int32[1] float64[2] float64[2] float64[2] float64[4] float64[3] float64[4] "
            "float64[4] float64[2] float64[3] float64[3] float64[3] float64[2] float64[1] float64[3] "
            "float64[2] int64[1] float64[2] float64[2] float64[2] float64[3] bool[2] float64[2]",
        ),
    },
    "other": {  # what some models need
        "cells.count_gram": ("int64 int64 int64[1] int64[1] int32[1] int64[1] int64 int32[1] int64[1]",),
        "cells.fill_gram": (
            "int64 int64 int64[1] int64[1] int32[1] int32[1] int64[1] int64 int32[1] float64[1R] "
            "int64[1] int32[1] float64[1]",
        ),
        "pedigree.find_entries": ("int64[1] int32[1] int64[1] int64[1] int64[1]",),
        "pedigree.inbreeding": ("int64[1] int64[1]",),
        "pedigree.order_by_parents": ("int64[1] int64[1]",),
        "pedigree.solve_lower": ("int64[1] int32[1] float64[1] float64[2]",),
        "pedigree.solve_upper": ("int64[1] int32[1] float64[1] float64[2]",),
        "pairs.gram_columns": (
            "int64 int64 int64[1] int32[1] int64[1] int32[1] int32[1] float64[1] float64[1] float64[2F]",
        ),
        "pairs.level_sums": (
            "int64 int64 float64[3] float64[3] float64[3] float64[4] float64[6] float64[4]",
        ),
        "pairs.level_forms": ("int64 int64 int64[1] int32[1] float64[2] float64[2] float64[3]",),
        "prediction.pair_forms": (
            "int64 int64 int64[1] int64[1] float64[1] int64[1] float64[2] int64[1] int32[1] float64[1] "
            "int64[1] int32[1] float64[2] float64[2] float64[1]",
        ),
        "profile.scalar_profile": ("float64[1] float64[3] float64[3] float64[2] int64 bool",),
        "rows.transform_rows": ("int64 int64 float64[2R] float64[2] float64[2]",),
        "sums.add_levels": ("int64 int64 int32[1] float64[2] int64[1] int64[1] float64[2]",),
        "sums.standard_rows": (
            "float64[2] float64[1] float64[1] float64[2] float64 float64[1] float64[2] float64[2]",
        ),
        "sums.add_rows": ("int32[1] float64[2] float64[2]",),
        "sums.number_whole": ("int64[1] int64 int32[1] int64[1] int64 int32[1]",),
        "sums.number_keys": ("int64[1] int32[1] int64[1] int64 int32[1]",),
        "schur.level_apply": ("int64 int64 float64[3] float64[3] float64[3]",),
        "selected_inverse.gather_front": ("float64[1] int64 int64 int32[1] float64[1]",),
        "variances.level_inverse": (
            "int64 int64 int64[1] int32[1] int32[1] float64[3] int64[1] int32[1] float64[2] bool "
            "float64[2F] int64[1] int32[1] float64[1] float64[3]",
            "int64 int64 int64[1] int32[1] int32[1] float64[3] int64[1] int32[1] float64[2] bool "
            "float64[2] int64[1] int32[1] float64[1] float64[3]",
        ),
    },
}

# what a fit that has come to a group will need, first what it needs last
AHEAD: dict[str, tuple[str, ...]] = {
    "one": ("lead", "one"),
    "lead": ("one",),
    "search": ("search", "one"),
    "several": ("few", "several", "dense", "one"),
    "few": ("few", "several", "one"),
    "dense": ("dense", "several", "one"),
    "sparse": ("sparse", "several", "one"),
    "iterative": ("iterative", "several", "one"),
}
