package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/testnet"
)

// runLimit bounds a program that should end by itself.
const runLimit = 10 * time.Second

// result is what a program left.
type result struct {
	exit   int // -1 if it was killed or did not start
	took   time.Duration
	output string
}

// runProgram runs a program on a host to its end.
func runProgram(ctx context.Context, h *testnet.Host, argv []string) result {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	r := result{took: time.Since(began), output: strings.TrimSpace(string(out))}
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		r.exit = failed.ExitCode()
	case err != nil:
		r.exit, r.output = -1, err.Error()
	}
	return r
}

// environment is ours in English, and without proxies.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasSuffix(strings.ToLower(name), "_proxy") && name != "LC_ALL" {
			env = append(env, v)
		}
	}
	return env
}

// outcome is what a program saw of its attempt, in one word.
type outcome string

const (
	answered outcome = "answered"
	refused  outcome = "refused"
	silence  outcome = "silence"
	strange  outcome = "strange"
)

// sight is how a kind of program shows what it saw.
type sight func(r result) (o outcome, text string)

// curlSight is for curl with curlFlags.
func curlSight(r result) (outcome, string) {
	const couldNotConnect, timedOut, aborted = 7, 28, 56
	switch r.exit {
	case 0:
		return answered, "HTTP " + r.output
	case couldNotConnect:
		return refused, "exit 7: cannot connect"
	case timedOut:
		return silence, "exit 28: timed out"
	case aborted:
		return refused, "exit 56: connection aborted"
	}
	return strange, lastLine(r)
}

// ncSight is for nc -vz.
func ncSight(r result) (outcome, string) {
	switch {
	case r.exit == 0:
		return answered, "connected"
	case strings.Contains(r.output, "timed out"), strings.Contains(r.output, "in progress"):
		return silence, "exit 1: timed out"
	}
	_, why, found := strings.Cut(r.output, "failed: ")
	if !found {
		return strange, lastLine(r)
	}
	why, _, _ = strings.Cut(why, "\n") // it tries again where a name has two addresses
	return refused, fmt.Sprintf("exit %d: %s", r.exit, why)
}

// digSight is for dig +short.
func digSight(r result) (outcome, string) {
	switch {
	case r.exit == 0 && !strings.Contains(r.output, ";;"):
		return answered, "answer: " + r.output
	case strings.Contains(r.output, "unreachable"), strings.Contains(r.output, "refused"):
		return refused, fmt.Sprintf("exit %d: unreachable", r.exit)
	case strings.Contains(r.output, "timed out"):
		return silence, fmt.Sprintf("exit %d: timed out", r.exit)
	}
	return strange, lastLine(r)
}

// pingSight is for ping -q.
func pingSight(r result) (outcome, string) {
	counts := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(r.output)
	switch {
	case counts == nil:
		return strange, lastLine(r)
	case r.exit == 0:
		return answered, counts[2] + " of " + counts[1] + " answered"
	}
	return silence, fmt.Sprintf("exit %d: %s of %s answered", r.exit, counts[2], counts[1])
}

// lastLine is for what nobody expected.
func lastLine(r result) string {
	lines := strings.Split(r.output, "\n")
	return fmt.Sprintf("exit %d: %s", r.exit, lines[len(lines)-1])
}

// short writes a time in few letters.
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
