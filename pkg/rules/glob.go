package rules

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// flavor says what a star means.
type flavor uint8

const (
	// pathGlob keeps "*" and "?" within a path element.
	pathGlob flavor = iota
	// textGlob lets "*" match everything.
	textGlob
)

// globMeta is what makes a pattern a glob.
const globMeta = "*?["

// pattern is a string condition: exact, or a glob.
type pattern struct {
	src string
	// toks is nil for an exact pattern.
	toks []token
}

type tokenKind uint8

const (
	tokLiteral tokenKind = iota
	// tokOne is "?": one character, no slash in a path.
	tokOne
	// tokClass is "[...]".
	tokClass
	// tokStar is "*" in a path: no slash.
	tokStar
	// tokDeep is "**", or "*" in a text: anything.
	tokDeep
	// tokDirs is "**/" at the begin of a path element: no or some elements.
	tokDirs
)

type token struct {
	kind tokenKind
	// slash allows tokOne and tokClass to match a slash.
	slash  bool
	negate bool
	lit    string
	ranges []runeRange
}

type runeRange struct{ lo, hi rune }

const globHint = `"*" and "?" match within a path element, "**" across, "[a-z]" is a class, "[*]" is a star`

// Quote returns the pattern that matches exactly s.
func Quote(s string) string {
	return strings.NewReplacer("*", "[*]", "?", "[?]", "[", "[[]").Replace(s)
}

// parsePattern reads an exact string or a glob.
func parsePattern(s string, f flavor) (*pattern, *problem) {
	if p := checkText(s); p != nil {
		return nil, p
	}
	if !utf8.ValidString(s) {
		return nil, &problem{s, "not valid UTF-8", ""}
	}
	p := &pattern{src: s}
	if !strings.ContainsAny(s, globMeta) {
		return p, nil
	}
	for rest := s; rest != ""; {
		t, n, bad := nextToken(rest, f, p.atElement())
		if bad != "" {
			return nil, &problem{s, bad, globHint}
		}
		p.toks = append(p.toks, t)
		rest = rest[n:]
	}
	return p, nil
}

// atElement reports whether what was parsed ends where a path element begins.
func (p *pattern) atElement() bool {
	if len(p.toks) == 0 {
		return true
	}
	last := &p.toks[len(p.toks)-1]
	return last.kind == tokDirs || last.kind == tokLiteral && strings.HasSuffix(last.lit, "/")
}

// nextToken reads the token at the begin of s, which is not empty, and returns
// its length.
func nextToken(s string, f flavor, atElement bool) (t token, n int, bad string) {
	switch s[0] {
	case '?':
		return token{kind: tokOne, slash: f == textGlob}, 1, ""
	case '[':
		t, n, bad = parseClass(s)
		t.slash = f == textGlob
		return t, n, bad
	case '*':
		stars := len(s) - len(strings.TrimLeft(s, "*"))
		switch {
		case f == textGlob:
			return token{kind: tokDeep}, stars, ""
		case stars == 1:
			return token{kind: tokStar}, 1, ""
		case stars > 2:
			return token{}, 0, "more than two stars in a row"
		case atElement && strings.HasPrefix(s[2:], "/"):
			return token{kind: tokDirs}, 3, ""
		}
		return token{kind: tokDeep}, 2, ""
	}
	n = strings.IndexAny(s, globMeta)
	if n < 0 {
		n = len(s)
	}
	return token{kind: tokLiteral, lit: s[:n]}, n, ""
}

// parseClass reads "[a-z]" or "[!a-z]"; a "]" that comes first is meant.
func parseClass(s string) (t token, n int, bad string) {
	t.kind = tokClass
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		t.negate = true
		i++
	}
	for first := true; ; first = false {
		if i >= len(s) {
			return t, 0, `"[" without "]"`
		}
		if s[i] == ']' && !first {
			return t, i + 1, ""
		}
		lo, w := utf8.DecodeRuneInString(s[i:])
		i += w
		hi := lo
		if i+1 < len(s) && s[i] == '-' && s[i+1] != ']' {
			hi, w = utf8.DecodeRuneInString(s[i+1:])
			i += 1 + w
		}
		if hi < lo {
			return t, 0, "class with the reversed range " + strconv.Quote(string(lo)+"-"+string(hi))
		}
		t.ranges = append(t.ranges, runeRange{lo, hi})
	}
}

// eat returns how many bytes of s a token of fixed length takes, -1 if it does
// not match.
func (t *token) eat(s string) int {
	if t.kind == tokLiteral {
		if strings.HasPrefix(s, t.lit) {
			return len(t.lit)
		}
		return -1
	}
	if s == "" || s[0] == '/' && !t.slash {
		return -1
	}
	r, w := utf8.DecodeRuneInString(s)
	if t.kind == tokOne {
		return w
	}
	for _, x := range t.ranges {
		if r >= x.lo && r <= x.hi {
			if t.negate {
				return -1
			}
			return w
		}
	}
	if t.negate {
		return w
	}
	return -1
}

// retry is where matching goes on after a mismatch: behind token t, with that
// token taking everything up to pos.
type retry struct{ t, pos int }

// match reports whether s, which is not empty, matches. A star needs to be
// reconsidered only until the next one of at least its reach, so that one place
// for each kind is enough, and time is at most quadratic per "**".
func (p *pattern) match(s string) bool {
	if s == "" {
		return false
	}
	if p.toks == nil {
		return p.src == s
	}
	star, deep := retry{t: -1}, retry{t: -1}
	ti, si := 0, 0
	for {
		if ti == len(p.toks) && si == len(s) {
			return true
		}
		if ti < len(p.toks) {
			t := &p.toks[ti]
			switch t.kind {
			case tokStar:
				star = retry{ti, si}
				ti++
				continue
			case tokDeep, tokDirs:
				star, deep = retry{t: -1}, retry{ti, si}
				ti++
				continue
			case tokLiteral, tokOne, tokClass:
				if n := t.eat(s[si:]); n >= 0 {
					ti, si = ti+1, si+n
					continue
				}
			}
		}
		if star.t >= 0 && star.pos < len(s) && s[star.pos] != '/' {
			star.pos += runeLen(s[star.pos:])
			ti, si = star.t+1, star.pos
			continue
		}
		if deep.t < 0 || !p.deeper(&deep, s) {
			return false
		}
		star = retry{t: -1}
		ti, si = deep.t+1, deep.pos
	}
}

// deeper lets the token of d take more of s.
func (p *pattern) deeper(d *retry, s string) bool {
	if p.toks[d.t].kind == tokDirs {
		i := strings.IndexByte(s[d.pos:], '/')
		d.pos += i + 1
		return i >= 0
	}
	if d.pos == len(s) {
		return false
	}
	d.pos += runeLen(s[d.pos:])
	return true
}

func runeLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// key returns what a map can hold of a path pattern: the exact path, or the
// directory, with a slash at its end, that everything it matches is below; ""
// if there is no such directory.
func (p *pattern) key() string {
	if p.toks == nil {
		return p.src
	}
	if p.toks[0].kind != tokLiteral {
		return ""
	}
	lit := p.toks[0].lit
	return lit[:strings.LastIndexByte(lit, '/')+1]
}
