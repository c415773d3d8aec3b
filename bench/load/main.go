// Command load plays the two ends of a benchmark: servers whose speed is known, and open-loop callers.
//
//	load backends < config.json      serve until standard input ends; commands come as lines of JSON
//	load call < plan.json > calls    call at a fixed rate whatever the answers do; one line per call
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: load backends|call")
	}
	var err error
	switch os.Args[1] {
	case "backends":
		err = serve(os.Stdin)
	case "call":
		err = call(os.Stdin, os.Stdout)
	default:
		fail("usage: load backends|call")
	}
	if err != nil {
		fail(err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "load:", message)
	os.Exit(2)
}
