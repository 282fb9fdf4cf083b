package web_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/web"
)

func fetch(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL.Path = path
	web.Handler().ServeHTTP(w, r)
	return w
}

func TestFiles(t *testing.T) {
	for path, kind := range map[string]string{
		"/": "text/html", "/app.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml", "/vendor/uplot.js": "text/javascript",
	} {
		w := fetch(t, path)
		assert.Equal(t, 200, w.Code, path)
		assert.Contains(t, w.Header().Get("Content-Type"), kind, path)
	}
	for _, path := range []string{"/nothing", "/../web.go", "/vendor", "/../../../etc/passwd", "/vendor.txt"} {
		assert.Equal(t, 404, fetch(t, path).Code, path)
	}
}

// The content security policy lets no inline script run, and no style attribute of the document count; nothing comes from elsewhere.
func TestNothingInlineAndNothingForeign(t *testing.T) {
	html := fetch(t, "/").Body.String()
	assert.NotRegexp(t, `<script(>| [^>]*>)[^<]`, html)
	assert.NotRegexp(t, `(?i)<style|\sstyle=|\son[a-z]+=|javascript:`, html)
	own := regexp.MustCompile(`https?://[^\s"'\x60)]+`)
	err := filepath.WalkDir("static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "vendor") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, url := range own.FindAllString(string(b), -1) {
			assert.Equal(t, "http://www.w3.org/2000/svg", url, path)
		}
		assert.NotRegexp(t, `\beval\(|new Function|innerHTML|document\.write`, string(b), path)
		return err
	})
	require.NoError(t, err)
}

// Each vendored file is listed, with its licence, and is what the list says.
func TestVendored(t *testing.T) {
	text, err := os.ReadFile("vendor.txt")
	require.NoError(t, err)
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		columns := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1)
		require.Len(t, columns, 6, line)
		b, err := os.ReadFile(columns[0])
		require.NoError(t, err)
		sum := sha256.Sum256(b)
		assert.Equal(t, columns[5], hex.EncodeToString(sum[:]), columns[0])
		listed[columns[0]] = true
		for licence := range strings.SplitSeq(columns[4], ",") {
			info, err := os.Stat(licence)
			require.NoError(t, err)
			assert.Positive(t, info.Size())
		}
	}
	for _, dir := range []string{"static/vendor", "testdata"} {
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, f := range files {
			assert.True(t, listed[dir+"/"+f.Name()], "%s/%s is not listed", dir, f.Name())
		}
	}
}
