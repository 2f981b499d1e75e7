// Tilt, whose sources are fetched by this and built as they are: they have go.mod and go.sum of their own, with replacements that only
// hold for a module that is built itself.
module ambit.dev/e2e/tilt

go 1.25.0

require github.com/tilt-dev/tilt v0.33.21
