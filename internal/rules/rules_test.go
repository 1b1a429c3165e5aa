package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// mayStart are the folders whose code may start goroutines, and why. Everything else runs in those of pipeline, so that one place decides
// how they end, what cancels them and what becomes of a panic.
var mayStart = map[string]string{
	"pipeline":       "the engine",
	"sinks/sinktest": "a conformance suite: it calls a sink from several goroutines and must survive one that hangs",
	"cmd/coldload":   "signals, progress and memory sampling, which end with the process",
}

func TestOnlyPipelineStartsGoroutines(t *testing.T) {
	used := map[string]bool{}
	eachFile(t, func(folder string, fset *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				used[folder] = true
				if mayStart[folder] == "" {
					t.Errorf("%s: go statement: only pipeline starts goroutines", fset.Position(n.Pos()))
				}
			}
			return true
		})
	})
	if !used["sinks/sinktest"] {
		t.Error("no go statement found where there is one: the test does not see the code")
	}
}

// eachFile parses every Go file of the module that is no test.
func eachFile(t *testing.T, do func(folder string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != root && (name == "testdata" || name == "tools" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return filepath.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		do(filepath.ToSlash(folder), fset, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
