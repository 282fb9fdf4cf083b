package procinfo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
)

// newRoot is a script that makes a root with the programs of this host, as sandboxes do, and goes there. $ROOT is an empty folder.
const newRoot = `
mount -t tmpfs none "$ROOT"; cd "$ROOT"
mkdir old usr proc; mount --rbind /usr usr
for d in bin sbin lib lib32 lib64 libx32; do
	if [ -L /$d ]; then cp -P /$d $d; elif [ -d /$d ]; then mkdir $d; mount --rbind /$d $d; fi
done
`

// enterRoot goes there.
const enterRoot = `
mount -t proc proc proc; pivot_root . old; cd /; umount -l /old
`

// Each kind of app of docs/identity.md, made for real.
func TestIntegrationIdentity(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "python3", "unshare")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		// script is run by a shell in a mount namespace of its own, with $DIR, $ROOT and $GROUP; it ends in an exec.
		script string
		group  string
		// id may have $DIR in it.
		id   string
		also func(p *conn.Process) bool
		// asHost tells that the host's files are those that the program sees.
		asHost bool
	}{
		{name: "path", script: `exec /bin/sleep 600`, id: "path:/usr/bin/sleep"},
		{name: "symlink", script: `ln -s /bin/sleep "$DIR/link"; exec "$DIR/link" 600`, id: "path:/usr/bin/sleep"},
		{name: "relative path", script: `mkdir -p "$DIR/rel"; cp /bin/sleep "$DIR/rel/nap"; cd "$DIR"; exec ./rel/nap 600`, id: "path:$DIR/rel/nap"},
		{
			name: "versioned folder", script: `mkdir -p "$DIR/tool-1.20.3/bin"; cp /bin/sleep "$DIR/tool-1.20.3/bin/tool"; exec "$DIR/tool-1.20.3/bin/tool" 600`,
			id: "path:$DIR/tool-*/bin/tool",
		},
		{
			name: "deleted", script: `cp /bin/sleep "$DIR/gone"; exec sh -c '(sleep 0.05; rm "$DIR/gone") & exec "$DIR/gone" 600'`, id: "path:$DIR/gone",
			also: func(p *conn.Process) bool { return p.App.Deleted },
		},
		{name: "memfd", script: `exec python3 -c '
import os
fd = os.memfd_create("payload")
os.write(fd, open("/bin/sleep", "rb").read())
os.execve(fd, ["sleep", "600"], os.environ)'`, id: "memfd:payload"},
		{
			name: "setuid", script: `cp /bin/sleep "$DIR/suid"; chmod 4755 "$DIR/suid"; exec python3 -c '
import os
os.setgid(65534); os.setuid(65534)
os.execv(os.environ["DIR"] + "/suid", ["suid", "600"])'`,
			id: "path:$DIR/suid", also: func(p *conn.Process) bool { return p.UID == 0 },
		},
		{name: "python script", script: `echo 'import time; time.sleep(600)' >"$DIR/a.py"; exec python3 "$DIR/a.py"`, id: "script:$DIR/a.py"},
		{name: "bash script", script: `printf '#!/bin/bash\nread -t 600 x <>"$DIR/fifo"\n' >"$DIR/b.sh"; mkfifo "$DIR/fifo"; chmod +x "$DIR/b.sh"; exec "$DIR/b.sh"`, id: "script:$DIR/b.sh"},
		{name: "node script", script: `command -v node >/dev/null || exit 77; echo 'setTimeout(() => {}, 600000)' >"$DIR/c.js"; cd "$DIR"; exec node c.js`, id: "script:$DIR/c.js"},
		{
			name: "overlay", script: `mount -t tmpfs none "$ROOT"; cd "$ROOT"; mkdir low up work all; cp /bin/sleep low/tool
mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work all; exec "$ROOT/all/tool" 600`, id: "path:$ROOT/all/tool", asHost: true,
		},
		{
			name: "appimage", script: `m=/tmp/.mount_Weirt4bC123; mkdir -p $m; mount -t tmpfs none $m; mkdir -p $m/usr/bin; cp /bin/sleep $m/usr/bin/tool
APPDIR=$m APPIMAGE="$DIR/Weirt-1.2.3-x86_64.AppImage" exec $m/usr/bin/tool 600`, id: "appimage:$DIR/Weirt-*-x86_64.AppImage",
		},
		{
			name: "flatpak", group: "app-flatpak-org.example.Tool-4711.scope", id: "flatpak:org.example.Tool",
			script: newRoot + `mkdir -p app/bin; cp /usr/bin/sleep app/bin/tool; printf '[Application]\nname=org.example.Tool\n' >.flatpak-info` + enterRoot + `exec /app/bin/tool 600`,
		},
		{
			name: "flatpak that says another name than its group", group: "app-flatpak-org.example.Other-4711.scope", id: "sandbox:/app/bin/tool",
			script: newRoot + `mkdir -p app/bin; cp /usr/bin/sleep app/bin/tool; printf '[Application]\nname=org.example.Tool\n' >.flatpak-info` + enterRoot + `exec /app/bin/tool 600`,
		},
		{name: "snap", id: "snap:hello", asHost: true, script: newRoot + `mkdir -p snap/hello/42/bin; cp /usr/bin/sleep snap/hello/42/bin/tool` + enterRoot + `exec /snap/hello/42/bin/tool 600`},
		{
			name: "snap that the host does not have", id: "sandbox:/snap/hello/42/bin/tool",
			script: newRoot + `mkdir -p snap/hello/42/bin; cp /usr/bin/sleep snap/hello/42/bin/tool` + enterRoot + `exec /snap/hello/42/bin/tool 600`,
		},
		{
			name: "mounted over another", script: `cp /bin/sleep "$DIR/evil"; mount --bind "$DIR/evil" /usr/bin/true; exec /usr/bin/true 600`,
			id: "sandbox:/usr/bin/true", also: isInner("/usr/bin/true"),
		},
		{
			name: "mounted over another by a user", id: "sandbox:/usr/bin/true", also: isInner("/usr/bin/true"),
			script: `cp /bin/sleep "$DIR/users"; exec setpriv --reuid 65534 --regid 65534 --clear-groups \
unshare --user --map-root-user --mount sh -ec 'mount --bind "$DIR/users" /usr/bin/true; exec /usr/bin/true 600'`,
		},
		{
			name: "mounted over another, and deleted", id: "sandbox:/usr/bin/true", also: isInner("/usr/bin/true (deleted)"),
			script: `cp /bin/sleep "$DIR/fleeting"; chown 65534 "$DIR/fleeting"; mount --bind "$DIR/fleeting" /usr/bin/true
exec sh -c '(sleep 0.05; rm "$DIR/fleeting") & exec /usr/bin/true 600'`,
		},
		{
			name: "unmounted while it runs", id: "sandbox:/usr/bin/true", also: isInner("/usr/bin/true"),
			script: `mount -t tmpfs none "$ROOT"; mkdir -p "$ROOT/usr/bin"; cp /bin/sleep "$ROOT/usr/bin/true"
exec sh -c '(sleep 0.05; umount -l "$ROOT") & exec "$ROOT/usr/bin/true" 600'`,
		},
		{
			name: "container", group: "docker-" + strings.Repeat("5f", 32) + ".scope", id: "container:" + strings.Repeat("5f", 6),
			script: `exec /bin/sleep 600`,
		},
		{
			name: "systemd unit", group: `weird\x2done.service`, id: "path:/usr/bin/sleep", script: `exec /bin/sleep 600`,
			also: func(p *conn.Process) bool { return p.App.Unit == "weird-one.service" },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFinder(t)
			root := t.TempDir()
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", test.script)
			cmd.Env = append(os.Environ(), "DIR="+dir, "ROOT="+root)
			cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			if test.group != "" {
				cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, group(t, test.group)
			}
			want := os.Expand(test.id, func(v string) string { return map[string]string{"DIR": dir, "ROOT": root}[v] })
			wantApp(t, f, cmd, want, test.also, test.asHost)
		})
	}
}

// isInner reports that no path of the host is claimed.
func isInner(path string) func(p *conn.Process) bool {
	return func(p *conn.Process) bool { return p.Path == "" && p.InnerPath == path && p.Name() != "" }
}

// wantApp starts a program and waits until it has become that app.
func wantApp(t *testing.T, f *Finder, cmd *exec.Cmd, want string, also func(p *conn.Process) bool, asHost bool) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if asHost {
		proc := t.TempDir()
		if err := os.Symlink("/proc/"+strconv.Itoa(cmd.Process.Pid), filepath.Join(proc, "1")); err != nil {
			t.Fatal(err)
		}
		f.host = hostfile.New(proc)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		<-ended
	})
	var last conn.Process
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			if cmd.ProcessState.ExitCode() == 77 {
				t.Skip("this host lacks the program")
			}
			t.Fatalf("it ended, as %+v: %s", last, out.String())
		default:
		}
		p, err := f.Process(cmd.Process.Pid)
		if err != nil {
			continue
		}
		if last = *p; p.App.ID == want && (also == nil || also(p)) {
			return
		}
	}
	t.Fatalf("got %+v; want %s", last, want)
}

// group makes a control group and returns its open folder.
func group(t *testing.T, name string) int {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if before, after, _ := strings.Cut(line, " - "); strings.HasPrefix(after, "cgroup2 ") {
			root = strings.Fields(before)[4]
		}
	}
	if root == "" {
		testutil.Unavailable(t, "needs a cgroup v2 hierarchy")
	}
	outer, err := os.MkdirTemp(root, "weirt*.slice") //nolint:usetesting // a control group, in a slice as all units are
	if err != nil {
		testutil.Unavailable(t, "needs a control group: %v", err)
	}
	inner := filepath.Join(outer, name)
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(inner, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fd)
		deadline := time.Now().Add(10 * time.Second)
		for os.Remove(inner) != nil && time.Now().Before(deadline) { // its process is about to be gone
			time.Sleep(5 * time.Millisecond)
		}
		if err := os.Remove(outer); err != nil {
			t.Error(err)
		}
	})
	return fd
}
