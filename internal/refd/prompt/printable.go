package prompt

import (
	"strings"
	"unicode"
)

// Printable replaces what would act on a terminal, or change how a text looks: programs choose their names, and so do those who answer
// for domains.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
