package appid

import (
	"bytes"
	"regexp"
	"strings"
)

// Groups that flatpak and snap make for their apps.
var (
	flatpakGroup = regexp.MustCompile(`/app-flatpak-(.+)-[0-9]+\.scope$`)
	snapGroup    = regexp.MustCompile(`/snap\.([a-z0-9-]+)\.[^/]*\.(?:scope|service)$`)
	snapPath     = regexp.MustCompile(`^(?:/var/lib/snapd)?/snap/([a-z0-9-]+)/[^/]+/`)
)

// flatpakOf returns the id of a Flatpak app. The file that its sandbox has at the root says it, and the control group has to agree if
// it names one. Without the file, of a process that has ended, the group alone says it, if it runs what sandboxes have.
func flatpakOf(cgroup, file string, files Files) string {
	group := ""
	if m := flatpakGroup.FindStringSubmatch(cgroup); m != nil {
		group = unescape(m[1])
	}
	inside := strings.HasPrefix(file, "/app/")
	if group == "" && !inside || files == nil {
		if inside {
			return group
		}
		return ""
	}
	info, err := files.Read("root/.flatpak-info")
	if err != nil {
		return ""
	}
	name := flatpakName(info)
	if group != "" && group != name {
		return ""
	}
	return name
}

// flatpakName reads a key file: the name in the section of the application, or of the runtime.
func flatpakName(info []byte) string {
	section := false
	for line := range bytes.Lines(info) {
		text := strings.TrimSpace(string(line))
		if strings.HasPrefix(text, "[") {
			section = text == "[Application]" || text == "[Runtime]"
			continue
		}
		if key, value, ok := strings.Cut(text, "="); ok && section && strings.TrimSpace(key) == "name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// snapOf returns the name of a snap. A process of one runs from its folder, whatever its group is called; from elsewhere (an interpreter
// of the base snap) the group says it.
func snapOf(cgroup, file string) string {
	m := snapPath.FindStringSubmatch(file)
	group := snapGroup.FindStringSubmatch(cgroup)
	switch {
	case m == nil:
		return ""
	case isBase(m[1]) && group != nil:
		return group[1]
	}
	return m[1]
}

// isBase reports whether a snap is one that others run on.
func isBase(name string) bool {
	return name == "snapd" || name == "core" || strings.HasPrefix(name, "core") && strings.Trim(name[4:], "0123456789") == ""
}

// mounted is where an AppImage runs from.
var mounted = regexp.MustCompile(`^(.*/\.mount_[^/]+)/`)

// appImageOf returns the file of the AppImage that a program runs from: its loader has put it into the environment, and mounted it where
// the program is.
func appImageOf(file string, files Files) string {
	m := mounted.FindStringSubmatch(file)
	if m == nil || files == nil {
		return ""
	}
	env, err := files.Read("environ")
	if err != nil {
		return ""
	}
	image, dir := "", ""
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if s, ok := strings.CutPrefix(string(v), "APPIMAGE="); ok {
			image = s
		}
		if s, ok := strings.CutPrefix(string(v), "APPDIR="); ok {
			dir = s
		}
	}
	if dir != m[1] || !strings.HasPrefix(image, "/") || !isMount(files, dir) {
		return ""
	}
	return image
}

// isMount reports whether something is mounted on a folder, as the process sees it.
func isMount(files Files, dir string) bool {
	info, err := files.Read("mountinfo")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(info) {
		const place = 4 // proc_pid_mountinfo(5)
		if f := strings.Fields(string(line)); len(f) > place && f[place] == dir {
			return true
		}
	}
	return false
}
