// Package rules holds tests of the source code itself: rules of this project that no linter checks. It has nothing to import.
package rules
