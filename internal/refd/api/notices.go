package api

import (
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// Notification is a state of a module as people are told of it.
type Notification struct {
	Module   string          `json:"module"`
	ID       string          `json:"id"`
	Severity module.Severity `json:"severity"`
	Title    string          `json:"title"`
	Message  string          `json:"message"`
	Time     time.Time       `json:"time"`
	// Actions are what can be done about it by one click.
	Actions []NotificationAction `json:"actions,omitempty"`
}

// NotificationAction is a thing to do about a notification.
type NotificationAction struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

// NoticeRequest names a notification, and for an act what to do about it.
type NoticeRequest struct {
	Module string `json:"module"`
	ID     string `json:"id"`
	Action string `json:"action,omitempty"`
}

// SleepRequest switches sleep mode: modules do less of their periodic work.
type SleepRequest struct {
	On bool `json:"on"`
}

// Session says who the caller is.
type Session struct {
	Role Role `json:"role"`
	// Via is socket, token or session.
	Via string `json:"via"`
}

// LoginRequest has the code of a login link.
type LoginRequest struct {
	Code string `json:"code"`
}

// LoginResult has the half of a session that is not in its cookie.
type LoginResult struct {
	Role Role   `json:"role"`
	Key  string `json:"key"`
}

// LinkRequest asks for a login link.
type LinkRequest struct {
	// Role is read or write; that of the caller by default, and no more than that.
	Role Role `json:"role,omitempty"`
}

// Link is a login link.
type Link struct {
	// URL works once, until Until.
	URL   string    `json:"url"`
	Until time.Time `json:"until"`
}

// Report is for people who help: what refd is and does, without names, addresses and paths of the people who use it.
type Report struct {
	Version string    `json:"version"`
	Go      string    `json:"go"`
	System  string    `json:"system"`
	Time    time.Time `json:"time"`
	Uptime  float64   `json:"uptimeSeconds"`
	// Memory in bytes that Go has from the system, and goroutines.
	Memory     uint64 `json:"memoryBytes"`
	Goroutines int    `json:"goroutines"`
	Status     Status `json:"status"`
	// Settings that differ from the default.
	Settings map[string]any `json:"settings"`
	// Allowed, Refused and Undecided count connections; verdict 8 counts as accepted.
	Allowed   int            `json:"allowed"`
	Refused   int            `json:"refused"`
	Undecided int            `json:"undecided"`
	ByVerdict map[string]int `json:"byVerdict"`
	ByReason  map[string]int `json:"byReason"`
}
