package rules

import (
	"slices"
	"strings"
)

// appMatch compiles an AppMatch that has a condition; what is wrong is noted.
func (c *compiler) appMatch(path string, src *AppMatch) *appMatch {
	m := &appMatch{src: cloneMatch(src), uids: slices.Clone(src.UIDs), profile: -1}
	if len(m.uids) == 0 {
		m.uids = nil
	}
	m.path = c.absPattern(path+".path", src.Path)
	m.script = c.absPattern(path+".script", src.Script)
	m.cgroup = c.absPattern(path+".cgroup", src.Cgroup)
	m.identity = c.pattern(path+".identity", src.Identity, textGlob)
	m.unit = c.pattern(path+".unit", src.Unit, textGlob)
	m.args = c.pattern(path+".args", src.Args, textGlob)
	if src.Parent != nil {
		if src.Parent.any() {
			c.bad(path+".parent", &problem{"", "matches every program", "leave it out"})
			return m
		}
		m.parent = c.appMatch(path+".parent", src.Parent)
	}
	return m
}

func cloneMatch(m *AppMatch) AppMatch {
	c := *m
	c.UIDs = slices.Clone(m.UIDs)
	if m.Parent != nil {
		p := cloneMatch(m.Parent)
		c.Parent = &p
	}
	return c
}

func (c *compiler) pattern(path, s string, f flavor) *pattern {
	if s == "" {
		return nil
	}
	p, bad := parsePattern(s, f)
	c.bad(path, bad)
	return p
}

// absPattern compiles a path pattern, which must be able to match an absolute
// path.
func (c *compiler) absPattern(path, s string) *pattern {
	p := c.pattern(path, s, pathGlob)
	switch {
	case p == nil:
	case !strings.HasPrefix(s, "/") && !strings.ContainsAny(s[:1], globMeta) && !isDrive(s):
		c.bad(path, &problem{s, "not an absolute path", `write it from the root, or "**/` + s + `" for any directory`})
	case len(s) > 1 && strings.HasSuffix(s, "/"):
		c.bad(path, &problem{s, "a directory", `write "` + s + `**" for everything below it`})
	}
	return p
}

// isDrive reports whether s begins like an absolute path of Windows.
func isDrive(s string) bool { return len(s) > 2 && s[1] == ':' && s[2] == '\\' }
