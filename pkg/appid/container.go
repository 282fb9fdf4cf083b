package appid

import (
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
	{"podman", regexp.MustCompile(`/libpod-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"containerd", regexp.MustCompile(`/cri-containerd-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"cri-o", regexp.MustCompile(`/crio-([0-9a-f]{64})\.scope(?:/|$)`)},
	{"kubernetes", regexp.MustCompile(`/kubepods[^/]*(?:/[^/]+)*/([0-9a-f]{64})(?:/|$)`)},
	{"lxc", regexp.MustCompile(`/lxc\.payload\.([^/]+)(?:/|$)`)},
	{"lxc", regexp.MustCompile(`/lxc/([^/]+)(?:/|$)`)},
	{"nspawn", regexp.MustCompile(`/systemd-nspawn@([^/]+)\.service(?:/|$)`)},
	{"nspawn", regexp.MustCompile(`/machine-([^/]+)\.scope(?:/|$)`)},
}

// containerOf returns the runtime and the id or name of the container that a control group is of, "" if of none.
func containerOf(cgroup string) (runtime, id string) {
	for i := range runtimes {
		if m := runtimes[i].group.FindStringSubmatch(cgroup); m != nil {
			return runtimes[i].name, unescape(m[1])
		}
	}
	return "", ""
}

// imageTable remembers the images of containers.
type imageTable struct {
	mu sync.Mutex // guards m
	m  map[string]string
}

// maxImages bounds an imageTable; when it is full it begins anew.
const maxImages = 1024

// app describes a container: by its image where the runtime tells it, else by its name, or the beginning of its id.
func (t *imageTable) app(root, runtime, id string) conn.App {
	t.mu.Lock()
	defer t.mu.Unlock()
	image, ok := t.m[id]
	if !ok {
		if t.m == nil || len(t.m) >= maxImages {
			t.m = make(map[string]string)
		}
		image = imageOf(root, runtime, id)
		t.m[id] = image
	}
	if image == "" {
		image = id
		if len(image) == 64 {
			image = image[:12]
		}
	}
	return named(conn.App{}, conn.AppContainer, image, image)
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
	b, err := os.ReadFile(filepath.Join("/", root, name)) //nolint:gosec // the name is made of hexadecimal digits
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
