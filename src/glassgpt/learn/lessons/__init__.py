"""The lessons, one package each: texts, exercises, solutions and checks."""
