package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// cookieName is of the cookie that has one half of a session, and keyHeader of the header that has the other: cookies go to
	// every port of a host, whoever listens there, and the storage of a page does not.
	cookieName = "weir"
	keyHeader  = "X-Weir-Key"

	// codeLife is how long a login link can be used, and sessionLife and sessionIdle how long what it begins lasts.
	codeLife    = time.Minute
	sessionLife = 12 * time.Hour
	sessionIdle = 4 * time.Hour
	// maxCodes and maxSessions bound what is remembered; the oldest make room.
	maxCodes    = 16
	maxSessions = 64
)

// secret returns 256 bits that nobody can guess, as text.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}

// digest is what is kept of a secret.
type digest [sha256.Size]byte

func digestOf(s string) digest { return sha256.Sum256([]byte(s)) }

// keys are the secrets that let callers in over TCP: tokens, login codes and sessions.
type keys struct {
	now func() time.Time

	mu       sync.Mutex // guards what follows
	tokens   map[Role]token
	codes    map[digest]code
	sessions map[digest]*session
}

type token struct {
	digest digest
	limit  *bucket
}

type code struct {
	role  Role
	until time.Time
}

type session struct {
	role  Role
	key   digest
	began time.Time
	last  time.Time
	limit *bucket
}

func newKeys(now func() time.Time) *keys {
	return &keys{now: now, tokens: map[Role]token{}, codes: map[digest]code{}, sessions: map[digest]*session{}}
}

// callerLimit is what each caller may ask: a page with its charts needs a few requests a second.
func callerLimit() *bucket { return newBucket(100, 300) }

// newToken makes the token of a role, and forgets the last one.
func (k *keys) newToken(r Role) string {
	s := secret()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens[r] = token{digestOf(s), callerLimit()}
	return s
}

// newCode makes the code of a login link, for one login.
func (k *keys) newCode(r Role) (text string, until time.Time) {
	text, until = secret(), k.now().Add(codeLife)
	k.mu.Lock()
	defer k.mu.Unlock()
	makeRoomIn(k.codes, maxCodes, func(c code) time.Time { return c.until })
	k.codes[digestOf(text)] = code{r, until}
	return text, until
}

// makeRoomIn removes the oldest entries of a map that is full.
func makeRoomIn[V any](m map[digest]V, most int, age func(V) time.Time) {
	for len(m) >= most {
		var oldest digest
		first := true
		for d, v := range m {
			if first || age(v).Before(age(m[oldest])) {
				oldest, first = d, false
			}
		}
		delete(m, oldest)
	}
}

var errBadCode = errors.New("this link was used, or is too old: get another one by `refd ui`")

// login makes a session of a code. It returns its two halves.
func (k *keys) login(text string) (cookie, key string, r Role, err error) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	d := digestOf(text)
	c, ok := k.codes[d]
	delete(k.codes, d)
	if !ok || now.After(c.until) {
		return "", "", NoRole, errBadCode
	}
	makeRoomIn(k.sessions, maxSessions, func(s *session) time.Time { return s.last })
	cookie, key = secret(), secret()
	k.sessions[digestOf(cookie)] = &session{role: c.role, key: digestOf(key), began: now, last: now, limit: callerLimit()}
	return cookie, key, c.role, nil
}

// logout ends a session.
func (k *keys) logout(cookie string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sessions, digestOf(cookie))
}

// identify returns who sent a request, by its token or session.
func (k *keys) identify(r *http.Request) (caller, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if header := r.Header.Get("Authorization"); header != "" {
		text, ok := strings.CutPrefix(header, "Bearer ")
		if !ok {
			return caller{}, errors.New("no token: write Authorization: Bearer TOKEN")
		}
		given := digestOf(text)
		for role, t := range k.tokens {
			if subtle.ConstantTimeCompare(given[:], t.digest[:]) == 1 {
				return caller{role: role, via: "token", limit: t.limit}, nil
			}
		}
		return caller{}, errors.New("this token is not of this refd")
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return caller{}, errors.New("not logged in: use the link of `refd ui`, or a token")
	}
	now, d := k.now(), digestOf(cookie.Value)
	s := k.sessions[d]
	if s == nil || now.Sub(s.began) > sessionLife || now.Sub(s.last) > sessionIdle {
		delete(k.sessions, d)
		return caller{}, errors.New("the session has ended: get another link by `refd ui`")
	}
	given := digestOf(r.Header.Get(keyHeader))
	if subtle.ConstantTimeCompare(given[:], s.key[:]) != 1 {
		return caller{}, errors.New("half of the session is missing: send its key as " + keyHeader)
	}
	s.last = now
	return caller{role: s.role, via: "session", session: cookie.Value, limit: s.limit}, nil
}

// cookieOf returns the cookie with one half of a session; an empty value removes it.
func cookieOf(value string) *http.Cookie {
	c := &http.Cookie{Name: cookieName, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(sessionLife.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}
