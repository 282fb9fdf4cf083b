package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	// plainWidth is for output that goes to no terminal.
	plainWidth = 120
	minWidth   = 72
	maxWidth   = 132
)

// style is a way to show text on a terminal (ECMA-48 SGR).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// screen is where the demo prints.
type screen struct {
	w     io.Writer
	width int
	// terminal is false for files and pipes: no colours, and nothing is printed that is wiped out again.
	terminal bool
	colours  bool
}

func newScreen(f *os.File) *screen {
	s := &screen{w: f, width: plainWidth}
	if w, ok := terminalWidth(f); ok {
		s.width, s.terminal, s.colours = w, true, os.Getenv("NO_COLOR") == "" // see no-color.org
	}
	s.width = min(max(s.width, minWidth), maxWidth)
	return s
}

func (s *screen) styled(text string, st style) string {
	if !s.colours || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// title begins a part of the demo.
func (s *screen) title(text string) {
	fmt.Fprintf(s.w, "\n%s\n", s.styled(text, bold))
}

// line prints an empty line.
func (s *screen) line() { fmt.Fprintln(s.w) }

// say prints text, wrapped to the width.
func (s *screen) say(st style, format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), s.width-2) {
		fmt.Fprintf(s.w, "  %s\n", s.styled(line, st))
	}
}

// verbatim prints lines as they are, a little to the right.
func (s *screen) verbatim(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.w, "    %s\n", strings.TrimRight(line, "\n"))
	}
}

// working shows on a terminal what is going on until done is called.
func (s *screen) working(what string) (done func()) {
	if !s.terminal {
		return func() {}
	}
	const around = 6
	fmt.Fprint(s.w, s.styled("  … "+cut(what, s.width-around), dim))
	return func() { fmt.Fprint(s.w, "\r\x1b[K") }
}

// audience is a writer that tells when nobody reads any more.
type audience struct {
	io.Writer
	left func()
}

// Write implements io.Writer.
func (a *audience) Write(b []byte) (int, error) {
	n, err := a.Writer.Write(b)
	if err != nil {
		a.left()
	}
	return n, err //nolint:wrapcheck // nobody looks at it
}

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

// column is how wide the cells of a column are; 0 is what is left.
type column int

const gap = 2

// row prints cells side by side, each wrapped to its column.
func (s *screen) row(columns []column, cells ...cell) {
	widths := s.widths(columns)
	wrapped := make([][]string, len(cells))
	height := 0
	for i, c := range cells {
		wrapped[i] = wrap(c.text, widths[i])
		height = max(height, len(wrapped[i]))
	}
	for line := range height {
		var b strings.Builder
		b.WriteString("  ")
		for i, c := range cells {
			text := ""
			if line < len(wrapped[i]) {
				text = wrapped[i][line]
			}
			b.WriteString(s.styled(text, c.style))
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+gap))
		}
		fmt.Fprintln(s.w, strings.TrimRight(b.String(), " "))
	}
}

// widths gives the one column without a width what is left.
func (s *screen) widths(columns []column) []int {
	left := s.width - gap*len(columns)
	for _, c := range columns {
		left -= int(c)
	}
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = int(c)
		if c == 0 {
			widths[i] = left
		}
	}
	return widths
}

// wrap breaks text at spaces into lines of at most width; a longer word is cut.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		word = cut(word, width)
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// cut shortens text to width.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}
