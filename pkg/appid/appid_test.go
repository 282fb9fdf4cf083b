package appid_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/appid"
	"github.com/weirfw/weir/pkg/conn"
)

// files are in memory.
type files map[string]string

func (f files) Read(name string) ([]byte, error) {
	if s, ok := f[name]; ok {
		return []byte(s), nil
	}
	return nil, fs.ErrNotExist
}

const container = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// The table of docs/identity.md.
func TestOf(t *testing.T) {
	root := t.TempDir()
	write(t, root, "var/lib/docker/containers/"+container+"/config.v2.json", `{"Config":{"Image":"nginx:1.27@sha256:00"}}`)
	write(t, root, "var/lib/containers/storage/overlay-containers/containers.json",
		`[{"id":"`+container+`","metadata":"{\"image-name\":\"quay.io:443/team/app:v2\"}"}]`)
	mount := files{
		"environ":   "HOME=/root\x00APPIMAGE=/home/u/Apps/Tool-1.2.3-x86_64.AppImage\x00APPDIR=/tmp/.mount_ToolAbC123\x00",
		"mountinfo": "36 25 0:33 / /tmp/.mount_ToolAbC123 ro,nosuid,nodev - fuse.Tool Tool ro\n",
	}
	flatpak := files{"root/.flatpak-info": "[Application]\nname=org.mozilla.firefox\nruntime=x\n\n[Instance]\nname=other\n"}
	for _, test := range []struct {
		name  string
		p     conn.Process
		files appid.Files
		id    string
		unit  string
	}{
		{"path", conn.Process{Path: "/usr/bin/curl"}, nil, "path:/usr/bin/curl", ""},
		{"unknown", conn.Process{}, nil, "", ""},
		{"versioned folder", conn.Process{Path: "/opt/idea-231.9011.34/bin/idea"}, nil, "path:/opt/idea-*/bin/idea", ""},
		{"versioned folder with v", conn.Process{Path: "/home/u/.nvm/versions/node/v18.17.0/bin/node"}, nil, "path:/home/u/.nvm/versions/node/*/bin/node", ""},
		{"version of a release candidate", conn.Process{Path: "/opt/x-1.2.0-rc1/x"}, nil, "path:/opt/x-*/x", ""},
		{"the file's version stays", conn.Process{Path: "/usr/bin/python3.11"}, nil, "path:/usr/bin/python3.11", ""},
		{"architectures are no versions", conn.Process{Path: "/usr/lib/x86_64-linux-gnu/a"}, nil, "path:/usr/lib/x86_64-linux-gnu/a", ""},
		{"nix", conn.Process{Path: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-firefox-120.0/bin/firefox"}, nil, "path:/nix/store/*-firefox-*/bin/firefox", ""},
		{"deleted", conn.Process{Path: "/usr/bin/tool (deleted)"}, nil, "path:/usr/bin/tool", ""},
		{"memfd", conn.Process{Path: "/memfd:payload (deleted)"}, nil, "memfd:payload", ""},
		{"script", conn.Process{Path: "/usr/bin/python3.11", Script: "/srv/app-1.4/fetch.py"}, nil, "script:/srv/app-*/fetch.py", ""},
		{
			"wine, from this host", conn.Process{Path: "/usr/lib/wine/wine64-preloader", Args: []string{`Z:\home\u\Games\Setup.EXE`, "/s"}},
			nil, "wine:/home/u/games/setup.exe", "",
		},
		{
			"proton", conn.Process{Path: "/home/u/.steam/Proton 9.0/files/bin/wine64-preloader", Args: []string{`C:\Program Files\Game\game.exe`}},
			nil, "wine:c:/program files/game/game.exe", "",
		},
		{"wine's start", conn.Process{Path: "/usr/lib/wine/wine64", Args: []string{"start.exe", "/exec", "tool.exe"}}, nil, "wine:tool.exe", ""},
		{"wine without a program", conn.Process{Path: "/usr/lib/wine/wine64", Args: []string{"wine64"}}, nil, "path:/usr/lib/wine/wine64", ""},
		{"appimage", conn.Process{Path: "/tmp/.mount_ToolAbC123/usr/bin/tool"}, mount, "appimage:/home/u/Apps/Tool-*-x86_64.AppImage", ""},
		{"appimage elsewhere", conn.Process{Path: "/tmp/.mount_OtherAbC123/usr/bin/tool"}, mount, "path:/tmp/.mount_Other*/usr/bin/tool", ""},
		{"appimage that has ended", conn.Process{Path: "/tmp/.mount_ToolAbC123/usr/bin/tool"}, nil, "path:/tmp/.mount_Tool*/usr/bin/tool", ""},
		{
			"flatpak", conn.Process{Path: "/app/lib/firefox/firefox", Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.mozilla.firefox-4711.scope"},
			flatpak, "flatpak:org.mozilla.firefox", "",
		},
		{
			"flatpak whose group says another", conn.Process{Path: "/app/bin/x", Cgroup: "/app.slice/app-flatpak-org.gnome.Maps-4711.scope"},
			flatpak, "path:/app/bin/x", "",
		},
		{
			"flatpak with dashes", conn.Process{Path: "/app/bin/x", Cgroup: `/app.slice/app-flatpak-a.b\x2dc-1.scope`},
			files{"root/.flatpak-info": "[Application]\nname=a.b-c\n"}, "flatpak:a.b-c", "",
		},
		{"snap", conn.Process{Path: "/snap/spotify/79/usr/share/spotify/spotify"}, nil, "snap:spotify", ""},
		{
			"snap with the base's interpreter", conn.Process{Path: "/snap/core22/1033/usr/bin/python3.10", Cgroup: "/user.slice/snap.certbot.renew-0af.scope"},
			nil, "snap:certbot", "",
		},
		{"docker", conn.Process{Path: "/usr/sbin/nginx", Cgroup: "/system.slice/docker-" + container + ".scope"}, nil, "container:nginx", ""},
		{"podman", conn.Process{Path: "/bin/sh", Cgroup: "/machine.slice/libpod-" + container + ".scope/container"}, nil, "container:quay.io:443/team/app", ""},
		{
			"kubernetes", conn.Process{Path: "/bin/sh", Cgroup: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + container + ".scope"},
			nil, "container:" + container[:12], "",
		},
		{"lxc", conn.Process{Path: "/bin/sh", Cgroup: "/lxc.payload.web/init.scope"}, nil, "container:web", ""},
		{"podman below a service", conn.Process{Path: "/bin/sh", Cgroup: "/system.slice/web.service/libpod-payload-" + container}, nil, "container:quay.io:443/team/app", ""},
		{"podman without systemd", conn.Process{Path: "/bin/sh", Cgroup: "/libpod_parent/libpod-" + container}, nil, "container:quay.io:443/team/app", ""},
		{"podman's monitor", conn.Process{Path: "/usr/bin/conmon", Cgroup: "/machine.slice/libpod-conmon-" + container + ".scope"}, nil, "path:/usr/bin/conmon", ""},
		{"nerdctl", conn.Process{Path: "/bin/sh", Cgroup: "/system.slice/nerdctl-" + container + ".scope"}, nil, "container:" + container[:12], ""},
		{"docker below another parent", conn.Process{Path: "/bin/sh", Cgroup: "/batch/" + container}, nil, "container:nginx", ""},
		{
			"a user's group named as the system's container", conn.Process{Path: "/bin/sh", Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-" + container + ".scope"},
			nil, "container:user/" + container[:12], "",
		},
		{"a virtual machine", conn.Process{Path: "/usr/bin/qemu-system-x86_64", Cgroup: `/machine.slice/machine-qemu\x2d3\x2dname.scope/libvirt/emulator`}, nil, "path:/usr/bin/qemu-system-x86_64", ""},
		{"nspawn", conn.Process{Path: "/bin/sh", Cgroup: "/machine.slice/systemd-nspawn@web.service/payload/system.slice/ssh.service"}, nil, "container:web", ""},
		{"another file system", conn.Process{InnerPath: "/usr/bin/curl"}, nil, "sandbox:/usr/bin/curl", ""},
		{"another file system's script", conn.Process{InnerPath: "/usr/bin/python3", Script: "/srv/fetch.py"}, nil, "sandbox:/usr/bin/python3", ""},
		{"another file system's snap", conn.Process{InnerPath: "/snap/spotify/79/usr/share/spotify/spotify"}, nil, "sandbox:/snap/spotify/79/usr/share/spotify/spotify", ""},
		{
			"flatpak, as it is seen", conn.Process{InnerPath: "/app/lib/firefox/firefox", Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.mozilla.firefox-4711.scope"},
			flatpak, "flatpak:org.mozilla.firefox", "",
		},
		{"docker, as it is seen", conn.Process{InnerPath: "/usr/sbin/nginx", Cgroup: "/system.slice/docker-" + container + ".scope"}, nil, "container:nginx", ""},
		{"a group that a service calls like another", conn.Process{Path: "/usr/bin/x", Cgroup: "/system.slice/x.service/ssh.service"}, nil, "path:/usr/bin/x", "x.service"},
		{"a service's name in a scope", conn.Process{Path: "/usr/bin/x", Cgroup: "/user.slice/user-1000.slice/session-1.scope/ssh.service"}, nil, "path:/usr/bin/x", ""},
		{"a service's name below no unit", conn.Process{Path: "/usr/bin/x", Cgroup: "/anything/system.slice/ssh.service"}, nil, "path:/usr/bin/x", ""},
		{
			"a user's group below a scope", conn.Process{Path: "/usr/bin/x", Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope/syncthing.service"},
			nil, "path:/usr/bin/x", "",
		},
		{"unit", conn.Process{Path: "/usr/sbin/sshd", Cgroup: "/system.slice/ssh.service"}, nil, "path:/usr/sbin/sshd", "ssh.service"},
		{
			"user's unit", conn.Process{Path: "/usr/bin/syncthing", Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service"},
			nil, "path:/usr/bin/syncthing", "user/syncthing.service",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			identifier := &appid.Identifier{Root: root}
			got := identifier.Of(&test.p, test.files)
			if got.ID != test.id || got.Unit != test.unit {
				t.Errorf("got %+v; want %s, unit %q", got, test.id, test.unit)
			}
			if got.Deleted != strings.HasSuffix(test.p.Path, "(deleted)") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What a process or a container writes must not bring anybody down.
func FuzzOf(f *testing.F) {
	f.Fuzz(func(t *testing.T, path, cgroup, arg, environ, mountinfo, info string) {
		p := &conn.Process{Path: path, Cgroup: cgroup, Args: []string{arg}}
		id := &appid.Identifier{Root: "/nonexistent"}
		app := id.Of(p, files{"environ": environ, "mountinfo": mountinfo, "root/.flatpak-info": info})
		if path != "" && path != " (deleted)" && app.ID == "" {
			t.Fatalf("%q: no identity", path)
		}
		if app.ID != "" && !strings.HasPrefix(app.ID, string(app.Kind)+":") {
			t.Fatalf("got %+v", app)
		}
	})
}
