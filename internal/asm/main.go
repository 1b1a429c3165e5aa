// Command asm generates the assembly kernels of coldload. See generate.sh.
//
// One run writes the kernels of one package: its .s file, and Go declarations for them. The module is nested so that avo never becomes a
// requirement of the library.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/mmcloughlin/avo/build"
)

func main() {
	sets := map[string]func(){"repack": repack, "convert": convert, "decode": decode}
	set := flag.String("kernels", "", "which kernels: repack, convert or decode")
	flag.Parse()
	generate, ok := sets[*set]
	if !ok {
		fmt.Fprintf(os.Stderr, "no kernels %q\n", *set)
		os.Exit(2)
	}
	build.ConstraintExpr("!purego")
	generate()
	build.Generate()
}
