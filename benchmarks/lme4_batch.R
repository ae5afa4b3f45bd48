# Fits every model of a list by lme4, REML; see real_data.py.
# Arguments: folder with a CSV file per data set, table of fits (id, file, formula), file for the answers.
# Only lmer itself is timed (the faster of two fits): reading and conversion to factors come before.
suppressMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
fits <- read.csv(arguments[2], stringsAsFactors = FALSE)
answers <- file(arguments[3], open = "a")
clean <- function(text) gsub("[\"\\\\\n\r\t]", " ", paste(text, collapse = "; "))
quiet <- function(expression) suppressMessages(suppressWarnings(expression))
invisible(quiet(lmer(Reaction ~ Days + (Days | Subject), sleepstudy)))
last <- ""
for (i in seq_len(nrow(fits))) {
  if (fits$file[i] != last) {
    data <- read.csv(file.path(arguments[1], fits$file[i]), colClasses = c(g = "character"))
    data$g <- factor(data$g)
    last <- fits$file[i]
  }
  model <- as.formula(fits$formula[i])
  seconds <- Inf
  line <- tryCatch({
    for (turn in 1:2) {
      started <- Sys.time()
      fit <- quiet(lmer(model, data, REML = TRUE))
      seconds <- min(seconds, as.numeric(difftime(Sys.time(), started, units = "secs")))
    }
    sprintf(
      '{"id": "%s", "llf": %.17g, "seconds": %.6f, "singular": %s, "messages": "%s"}', fits$id[i],
      as.numeric(logLik(fit)), seconds, tolower(isSingular(fit)), clean(fit@optinfo$conv$lme4$messages)
    )
  }, error = function(e) sprintf('{"id": "%s", "error": "%s"}', fits$id[i], clean(conditionMessage(e))))
  writeLines(gsub("\\b(NaN|NA|-?Inf)\\b", "null", line), answers)
  flush(answers)
}
close(answers)
