package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// slow is a reader of an answer that has a deadline.
type slow struct {
	*httptest.ResponseRecorder

	deadline time.Time
}

// SetWriteDeadline is called by http.ResponseController.
func (s *slow) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

// nobody is a backend that is not asked.
type nobody struct{ Backend }

// pageServer is a server of a page, and of figures, that nobody may ask without a login.
func pageServer() *access {
	file := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("file")) }) // a recorder takes it
	return newAccess(&Config{
		Listen: netip.MustParseAddrPort("127.0.0.1:818"), Page: file, Metrics: file, Backend: nobody{}, Logger: slog.New(slog.DiscardHandler),
	}, newKeys(time.Now), groupAccess{gid: -1})
}

func (a *access) try(method, path, body, token string) *slow {
	w := &slow{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(method, "http://127.0.0.1:818"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	a.ServeHTTP(w, r)
	return w
}

func (a *access) login(code string) int {
	return a.try(http.MethodPost, "/api/v1/session", `{"code": "`+code+`"}`, "").Code
}

func TestEveryAnswerHasADeadline(t *testing.T) {
	a := pageServer()
	token := a.keys.newToken(ReadOnly)
	for _, path := range []string{"/", "/ui/app.js", "/metrics", "/api/v1/openapi.json", "/api/v1/session", "/nowhere"} {
		begin := time.Now()
		w := a.try(http.MethodGet, path, "", token)
		if w.Code != http.StatusOK && path != "/nowhere" {
			t.Errorf("%s: got %d", path, w.Code)
		}
		if w.deadline.Before(begin) || w.deadline.After(time.Now().Add(writeLimit)) {
			t.Errorf("%s: the answer has until %v", path, w.deadline)
		}
	}
}

// Whoever floods one way in without a login does not close the others.
func TestFloodsAreApart(t *testing.T) {
	floods := map[string]func(a *access) int{
		"files":    func(a *access) int { return a.try(http.MethodGet, "/ui/app.js", "", "").Code },
		"refusals": func(a *access) int { return a.try(http.MethodGet, "/api/v1/status", "", "").Code },
		"logins":   func(a *access) int { return a.login("nonsense") },
	}
	usual := map[string]int{"files": http.StatusOK, "refusals": http.StatusUnauthorized, "logins": http.StatusUnauthorized}
	for flooded, flood := range floods {
		t.Run(flooded, func(t *testing.T) {
			a := pageServer()
			end := time.Now().Add(time.Minute)
			for flood(a) != http.StatusTooManyRequests {
				if time.Now().After(end) {
					t.Fatal("it is without a limit")
				}
			}
			for other, ask := range floods {
				if got := ask(a); other != flooded && got != usual[other] {
					t.Errorf("%s: got %d; want %d", other, got, usual[other])
				}
			}
			code, _ := a.keys.newCode(ReadOnly)
			if got := a.login(code); got != http.StatusOK {
				t.Errorf("a login with a good code: got %d", got)
			}
		})
	}
}

func TestMayWrite(t *testing.T) {
	for role, want := range map[Role]bool{NoRole: false, ReadOnly: false, ReadWrite: true} {
		if got := MayWrite(context.WithValue(t.Context(), callerKey{}, caller{role: role})); got != want {
			t.Errorf("role %v: got %t; want %t", role, got, want)
		}
	}
	if MayWrite(t.Context()) {
		t.Error("nobody may write")
	}
}
