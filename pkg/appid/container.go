package appid

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/weirfw/weir/pkg/conn"
)

// runtimes know containers by the names of their control groups.
//
//nolint:gochecknoglobals // a table that nobody writes
var runtimes = []struct {
	name  string
	group *regexp.Regexp
}{
	{"docker", regexp.MustCompile(`/docker-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"docker", regexp.MustCompile(`/docker/([0-9a-f]{64})(?:/|$)`)},
	{"podman", regexp.MustCompile(`/libpod-(?:payload-)?([0-9a-f]{64})(?:\.scope)?(?:/|$)`)},
	{"containerd", regexp.MustCompile(`/nerdctl-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"containerd", regexp.MustCompile(`/cri-containerd-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"cri-o", regexp.MustCompile(`/crio-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"kubernetes", regexp.MustCompile(`/kubepods[^/]*(?:/[^/]+)*/([0-9a-f]{64})(?:/|$)`)},
	{"lxc", regexp.MustCompile(`/lxc\.payload\.([^/]+)(?:/|$)`)},
	{"lxc", regexp.MustCompile(`/lxc/([^/]+)(?:/|$)`)},
	{"nspawn", regexp.MustCompile(`/systemd-nspawn@([^/]+)\.service(?:/|$)`)},
	{"nspawn", regexp.MustCompile(`/machine-([^/]+)\.scope(?:/|$)`)},
	// a parent of the user's choice, for Docker, nerdctl and others that name the group by the id alone
	{"docker", regexp.MustCompile(`/([0-9a-f]{64})(?:/|$)`)},
}

const (
	// usersOwn is where users make groups of their own: what these are called says nothing about the system's containers.
	usersOwn = "/user@"
	// ofUser is the runtime of what is there, and what its names begin with.
	ofUser = "user/"
)

// virtualMachine is how libvirt calls machines that are no containers (virSystemdMakeMachineName).
const virtualMachine = "qemu-"

// containerOf returns the runtime and the id or name of the container that a control group is of, "" if of none.
func containerOf(cgroup string) (runtime, id string) {
	for i := range runtimes {
		m := runtimes[i].group.FindStringSubmatch(cgroup)
		if m == nil {
			continue
		}
		name := unescape(m[1])
		switch {
		case runtimes[i].name == "nspawn" && strings.HasPrefix(name, virtualMachine):
			return "", ""
		case strings.Contains(cgroup, usersOwn):
			return ofUser, name
		}
		return runtimes[i].name, name
	}
	return "", ""
}

// imageTable remembers the images of containers.
type imageTable struct {
	mu sync.Mutex // guards m
	m  map[container]string
}

type container struct{ runtime, id string }

// maxImages bounds an imageTable; when it is full it begins anew.
const maxImages = 1024

// app describes a container: by its image where the runtime tells it, else by its name, or the beginning of its id.
func (t *imageTable) app(root, runtime, id string) conn.App {
	key := container{runtime, id}
	t.mu.Lock()
	image, ok := t.m[key]
	t.mu.Unlock()
	if !ok {
		image = imageOf(root, runtime, id) // a file of megabytes, perhaps: others do not wait for it
		t.put(key, image)
	}
	if image == "" {
		image = id
		if len(image) == 64 {
			image = image[:12]
		}
		if runtime == ofUser {
			image = ofUser + image
		}
	}
	return named(conn.App{}, conn.AppContainer, image, image)
}

func (t *imageTable) put(c container, image string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil || len(t.m) >= maxImages {
		t.m = make(map[container]string)
	}
	t.m[c] = image
}

// imageOf reads the image's name where the runtime keeps it.
func imageOf(root, runtime, id string) string {
	switch runtime {
	case "docker":
		var c struct{ Config struct{ Image string } }
		if readJSON(root, "var/lib/docker/containers/"+id+"/config.v2.json", &c) {
			return imageName(c.Config.Image)
		}
	case "podman":
		for _, store := range []string{"var/lib/containers/storage/", "run/containers/storage/"} {
			var all []struct{ ID, Metadata string }
			if !readJSON(root, store+"overlay-containers/containers.json", &all) {
				continue
			}
			for _, c := range all {
				var meta struct {
					Image string `json:"image-name"`
				}
				if c.ID == id && json.Unmarshal([]byte(c.Metadata), &meta) == nil {
					return imageName(meta.Image)
				}
			}
		}
	}
	return ""
}

func readJSON(root, name string, v any) bool {
	b, err := os.ReadFile(filepath.Join(cmp.Or(root, "/"), name)) //nolint:gosec // the name is made of hexadecimal digits
	return err == nil && json.Unmarshal(b, v) == nil
}

// imageName takes tag and digest off: they are the version. The registry stays, unless it is Docker's own.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	image = strings.TrimPrefix(image, "docker.io/")
	return strings.TrimPrefix(image, "library/")
}
