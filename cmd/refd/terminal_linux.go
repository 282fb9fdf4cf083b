package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalSize returns how many rows and columns a terminal has; ok is false if
// f is none, or one that does not know.
func terminalSize(f *os.File) (rows, columns int, ok bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 || size.Col == 0 {
		return 0, 0, false
	}
	return int(size.Row), int(size.Col), true
}
