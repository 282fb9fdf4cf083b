// Package web is the page that people see in a browser. Its files are embedded, and need no build step; what others wrote of them is
// listed in vendor.txt with its licence.
package web

import (
	"embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
)

//go:embed static
var files embed.FS //nolint:gochecknoglobals // embedded

// Handler serves the page at / and its files below. It serves nothing else, and needs no login: there are no data in it.
func Handler() http.Handler {
	static, err := fs.Sub(files, "static")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Clean("/" + r.URL.Path)[1:]
		if name == "" {
			name = "index.html"
		}
		b, readErr := fs.ReadFile(static, name)
		if err != nil || readErr != nil {
			http.NotFound(w, r)
			return
		}
		kind := mime.TypeByExtension(path.Ext(name))
		switch path.Ext(name) { // whatever this host thinks
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".css":
			kind = "text/css; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-cache")
		if _, err := w.Write(b); err != nil {
			return // the browser is gone
		}
	})
}
