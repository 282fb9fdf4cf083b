package main

import (
	"io"
	"os"
	"strings"

	"github.com/weirfw/weir/pkg/verdict"
)

// Colours of a terminal (ECMA-48, SGR).
const (
	green   = "\x1b[32m"
	red     = "\x1b[31m"
	yellow  = "\x1b[33m"
	blue    = "\x1b[34m"
	noColor = "\x1b[0m"
)

// colours reports whether w is a terminal whose user wants colours (https://no-color.org).
func colours(w io.Writer) bool {
	_, _, terminal := screenSize(w)
	return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// paint colours the verdict in a line of a table, which is the first of such words there.
func paint(line string) string {
	at, found, colour := len(line), "", ""
	for _, v := range verdict.All() {
		if i := strings.Index(line, v.Verb()); i >= 0 && (i < at || i == at && len(v.Verb()) > len(found)) {
			at, found, colour = i, v.Verb(), colourOf(v)
		}
	}
	if found == "" {
		return line
	}
	return line[:at] + colour + found + noColor + line[at+len(found):]
}

func colourOf(v verdict.Verdict) string {
	switch {
	case v == verdict.Accept:
		return green
	case v.Allows():
		return blue
	case v.Refuses():
		return red
	}
	return yellow
}
