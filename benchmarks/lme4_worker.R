# Fits a workload by lme4 on command; see adapters.py for the protocol.
# Arguments: data file, formula, grouping columns, all columns (separated by commas).  The file is CSV, or
# (.bin) the columns as 8-byte numbers one after another.
# Only lmer itself is timed: reading and conversion to factors come before.
suppressMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
answer <- function(...) {
  cat("@@peers {", sprintf(...), "}\n", sep = "")
  flush(stdout())
}
columns <- strsplit(arguments[4], ",")[[1]]
if (grepl("[.]bin$", arguments[1])) {
  rows <- file.size(arguments[1]) / 8 / length(columns)
  source <- file(arguments[1], "rb")
  data <- lapply(columns, function(name) readBin(source, "double", rows))
  close(source)
  data <- as.data.frame(setNames(data, columns))
} else {
  data <- read.csv(arguments[1], stringsAsFactors = TRUE)
}
for (name in strsplit(arguments[3], ",")[[1]]) {
  codes <- data[[name]]
  data[[name]] <- factor(if (is.numeric(codes)) as.integer(codes) else codes)
}
model <- as.formula(arguments[2])
answer('"variants": ["factor"], "blas": ["%s"]', basename(extSoftVersion()[["BLAS"]]))
commands <- file("stdin")
open(commands)
while (length(line <- readLines(commands, n = 1)) > 0) {
  invisible(gc())
  tryCatch({
    seconds <- system.time(fit <- suppressMessages(suppressWarnings(lmer(model, data, REML = TRUE))))
    answer('"seconds": %.6f, "loglik": %.17g, "method": "REML"', seconds[["elapsed"]], as.numeric(logLik(fit)))
  }, error = function(e) {
    answer('"error": "%s"', gsub('["\\\\\n]', " ", conditionMessage(e)))
  })
}
