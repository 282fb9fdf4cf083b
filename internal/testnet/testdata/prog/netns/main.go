// Command netns prints its network namespace and its arguments, and then waits for SIGTERM when the first one is "wait".
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println(ns, os.Args[1:])
	if len(os.Args) > 1 && os.Args[1] == "wait" {
		<-stop
		fmt.Println("stopped")
	}
}
