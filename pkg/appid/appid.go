package appid

import (
	"cmp"
	"path"
	"regexp"
	"strings"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/pkg/conn"
)

// Files are what else there is to read of a process.
type Files interface {
	// Read returns the content of a file in the process' directory of procfs, such as "environ" or "root/.flatpak-info".
	Read(name string) ([]byte, error)
}

// Identifier finds out what apps processes are of. The zero value works; its methods may be called from any goroutine.
type Identifier struct {
	// Root is where the state of container runtimes is looked for, for tests. Default "/".
	Root string

	images imageTable
}

// Of describes the app of a process whose Path, Args, Script and Cgroup are filled in. files is nil for a process that has ended.
func (id *Identifier) Of(p *conn.Process, files Files) conn.App {
	app := id.kind(p, files)
	if app.Kind != conn.AppContainer {
		app.Unit = unitOf(p.Cgroup)
	}
	return app
}

func (id *Identifier) kind(p *conn.Process, files Files) conn.App {
	if runtime, container := containerOf(p.Cgroup); container != "" {
		app := id.images.app(id.Root, runtime, container)
		app.Deleted = strings.HasSuffix(cmp.Or(p.Path, p.InnerPath), deleted)
		return app
	}
	file, gone := strings.CutSuffix(cmp.Or(p.Path, p.InnerPath), deleted)
	app := conn.App{Deleted: gone}
	switch {
	case file == "":
		return conn.App{}
	case strings.HasPrefix(file, "/memfd:"):
		return named(app, conn.AppMemfd, strings.TrimPrefix(file, "/memfd:"), "")
	}
	if name := flatpakOf(p.Cgroup, file, files); name != "" {
		return named(app, conn.AppFlatpak, name, name)
	}
	if name := snapOf(p.Cgroup, file); name != "" && p.Path != "" {
		return named(app, conn.AppSnap, name, name)
	}
	if image := appImageOf(file, files); image != "" {
		return named(app, conn.AppImage, withoutVersion(path.Dir(image))+"/"+withoutVersion(path.Base(image)), path.Base(image))
	}
	if p.Path == "" {
		return named(app, conn.AppSandbox, stablePath(file), path.Base(file))
	}
	if exe := wineOf(file, p.Args); exe != "" {
		return named(app, conn.AppWine, exe, path.Base(exe))
	}
	if p.Script != "" {
		return named(app, conn.AppScript, stablePath(p.Script), path.Base(p.Script))
	}
	return named(app, conn.AppPath, stablePath(file), path.Base(file))
}

// deleted is what the kernel appends to the path of a file that is not in its place any more.
const deleted = hostfile.Deleted

func named(app conn.App, kind conn.AppKind, id, name string) conn.App {
	app.Kind, app.ID, app.Name = kind, string(kind)+":"+id, name
	if name == "" {
		app.Name = id
	}
	return app
}

// version is what looks like a version in the name of a folder: two numbers or more with dots between them, and what hangs on them.
var version = regexp.MustCompile(`[vV]?[0-9]+(\.[0-9]+)+([-+_~.]?(alpha|beta|rc|pre|dev|git|r|p)?[0-9]+[0-9a-f]*)*`)

// nixHash is the beginning of names in the store of Nix, and of Guix.
var nixHash = regexp.MustCompile(`^(/nix/store/|/gnu/store/)[0-9a-z]{32}-`)

// mountPoint is the random end of the folder that an AppImage is mounted on.
var mountPoint = regexp.MustCompile(`/\.mount_([^/]*?)[0-9A-Za-z]{6}/`)

// stablePath takes versions out of the folders of a path. The name of the file stays as it is: python3.11 is not python3.12.
func stablePath(file string) string {
	dir, base := path.Split(file)
	dir = nixHash.ReplaceAllString(dir, "${1}*-")
	dir = mountPoint.ReplaceAllString(dir, "/.mount_$1*/")
	return withoutVersion(dir) + base
}

func withoutVersion(s string) string { return version.ReplaceAllString(s, "*") }

// wineLoaders are the programs of Wine and Proton that the kernel shows in place of a Windows program.
//
//nolint:gochecknoglobals // a table that nobody writes
var wineLoaders = map[string]bool{"wine": true, "wine64": true, "wine-preloader": true, "wine64-preloader": true}

// wineOf returns the Windows program that Wine runs: its path in lower case with slashes, as Windows does not tell cases apart.
func wineOf(file string, args []string) string {
	if !wineLoaders[path.Base(file)] {
		return ""
	}
	for _, a := range args {
		a = strings.ToLower(strings.ReplaceAll(a, `\`, "/"))
		if !strings.HasSuffix(a, ".exe") || path.Base(a) == "start.exe" {
			continue // start.exe is how Wine starts others: the one behind it counts
		}
		// by default Z: is the root of this host
		return stablePath(strings.TrimPrefix(a, "z:"))
	}
	return ""
}

// unitOf returns the service that a control group is of, "" if of none. As systemd has it (cg_path_get_unit in its sources), that is the first
// part that is no slice: what is below belongs to the service, which may call it what it likes.
func unitOf(cgroup string) string {
	unit, below := unitPart(cgroup)
	if !strings.HasPrefix(unit, "user@") {
		return serviceName(unit)
	}
	unit, _ = unitPart(below)
	if name := serviceName(unit); name != "" {
		return "user/" + name
	}
	return ""
}

// unitPart returns the first part that is no slice, and what is below it.
func unitPart(cgroup string) (unit, below string) {
	below = strings.TrimPrefix(cgroup, "/")
	for {
		unit, below, _ = strings.Cut(below, "/")
		if !strings.HasSuffix(unit, ".slice") {
			return unit, below
		}
	}
}

// serviceName returns the name of a service, "" of what is none, such as a scope.
func serviceName(unit string) string {
	if name, ok := strings.CutSuffix(unit, ".service"); !ok || name == "" {
		return ""
	}
	return unescape(unit)
}

// unescape undoes systemd's escapes of unit names (systemd-escape(1)): \x2d is a dash.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	return escape.ReplaceAllStringFunc(s, func(e string) string { return string([]byte{hex(e[2])<<4 | hex(e[3])}) })
}

var escape = regexp.MustCompile(`\\x[0-9a-f]{2}`)

func hex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
