package api

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/rules"
)

// Settings are what the configuration file says, but for its rules.
type Settings struct {
	// Path of the file; changes are written there.
	Path string `json:"path"`
	// Writable is false if there is no file to write to; Why says so.
	Writable bool             `json:"writable"`
	Why      string           `json:"why,omitempty"`
	Settings []config.Setting `json:"settings"`
}

// ChangeRequest changes settings.
type ChangeRequest struct {
	// Set has new values by key; null takes the key out of the file, so that its default holds.
	Set map[string]any `json:"set"`
	// Check is to check only, and to change nothing.
	Check bool `json:"check,omitempty"`
}

// Policy is what the configuration says about all apps.
type Policy struct {
	Global  []rules.Rule   `json:"global"`
	Default rules.Defaults `json:"default"`
	Split   rules.Split    `json:"split"`
}

// PolicyRequest replaces what is given of the Policy.
type PolicyRequest struct {
	Global  *[]rules.Rule   `json:"global,omitempty"`
	Default *rules.Defaults `json:"default,omitempty"`
	Split   *rules.Split    `json:"split,omitempty"`
	Check   bool            `json:"check,omitempty"`
}

// App is a program that rules are about or that had connections lately.
type App struct {
	// ID is that of its profile, and empty without one.
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
	// Path of the program, as seen.
	Path string `json:"path,omitempty"`
	// Process is one of a program without a profile, for FindAppRequest.
	Process *conn.Process `json:"process,omitempty"`
	// Live and Recent count connections.
	Live   int `json:"live"`
	Recent int `json:"recent"`
	// Refused counts those of Recent that were blocked, dropped or failed, and Split those split tunneled.
	Refused       int    `json:"refused"`
	Split         int    `json:"split"`
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
	// Profile is nil without one.
	Profile *rules.AppProfile `json:"profile,omitempty"`
}

// FindAppRequest asks which profile a program has.
type FindAppRequest struct {
	// Process as a connection has it.
	Process conn.Process `json:"process"`
}

// FoundApp is the answer.
type FoundApp struct {
	// Known is false if the program has no profile: then Profile is a new one for it, which is not saved.
	Known   bool             `json:"known"`
	Profile rules.AppProfile `json:"profile"`
}

// AppID names a profile.
type AppID struct {
	ID string `path:"id" json:"-"`
}

// AppRequest puts the profile of an app into the place of the one with this id, or at the end.
type AppRequest struct {
	ID      string           `path:"id" json:"-"`
	Profile rules.AppProfile `json:"profile"`
	Check   bool             `json:"check,omitempty"`
}

// ChangeResult says what a change did.
type ChangeResult struct {
	ReloadResult
	// Notes are about what works and is hardly what was meant.
	Notes []KeyProblem `json:"notes,omitempty"`
	// Problems are what a check found: nothing could be changed like this. A change that was not made is an error instead.
	Problems []KeyProblem `json:"problems,omitempty"`
}

// KeyProblem is what is wrong with the value of a key.
type KeyProblem struct {
	// Key leads to the value, such as "apps[2].rules[0].remote[1]"; empty if it is about the file.
	Key  string `json:"key"`
	Text string `json:"text"`
	// Hint says what to write instead.
	Hint string `json:"hint,omitempty"`
	Line int    `json:"line,omitempty"`
}

// ProblemsError is of a change that was not made. It wraps ErrRefused.
type ProblemsError struct{ Problems []KeyProblem }

// Error lists the problems.
func (e *ProblemsError) Error() string {
	var parts []string
	for _, p := range e.Problems {
		text := p.Text
		if p.Key != "" {
			text = p.Key + ": " + text
		}
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
		parts = append(parts, text)
	}
	return fmt.Sprintf("%v: nothing was changed: %s", ErrRefused, strings.Join(parts, "; "))
}

// Unwrap returns ErrRefused.
func (e *ProblemsError) Unwrap() error { return ErrRefused }

// ErrNotFound is wrapped by errors about what does not exist.
var ErrNotFound = errors.New("not found")
