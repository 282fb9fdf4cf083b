package main

import (
	"bytes"
	"context"
	"regexp"
	"testing"
	"testing/synctest"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"state, worker and event", nil, `level=INFO msg=measured module=alarm degrees=20 worker="event measured alarm" caller=module/main.go:N
level=INFO msg=measured module=alarm degrees=25 worker="event measured alarm" caller=module/main.go:N
level=INFO msg=measured module=alarm degrees=35 worker="event measured alarm" caller=module/main.go:N
states of alarm: 1
level=INFO msg=measured module=alarm degrees=30 worker="event measured alarm" caller=module/main.go:N
level=INFO msg=measured module=alarm degrees=20 worker="event measured alarm" caller=module/main.go:N
states of alarm: 0
`},
		{"operation", []string{"check"}, "check: the sensor is there\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // It fails if a goroutine is left.
				var out bytes.Buffer
				if status := run(t.Context(), tt.args, &out); status != 0 {
					t.Errorf("got status %d; want 0", status)
				}
				got := regexp.MustCompile(`main\.go:\d+`).ReplaceAllString(out.String(), "main.go:N")
				if got != tt.want {
					t.Errorf("got\n%s\nwant\n%s", got, tt.want)
				}
			})
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out bytes.Buffer
		if status := run(ctx, nil, &out); status != 0 {
			t.Errorf("got status %d and %s; want 0", status, out.String())
		}
	})
}
