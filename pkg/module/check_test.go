package module_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// The few checks that these tests need. Those that begin with must end the test.

func why(msg []string) string {
	if len(msg) == 0 {
		return ""
	}
	return strings.Join(msg, " ") + ": "
}

func equal[T any](t testing.TB, want, got T, msg ...string) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%sgot %v; want %v", why(msg), got, want)
	}
}

func isTrue(t testing.TB, got bool, msg ...string) {
	t.Helper()
	equal(t, true, got, msg...)
}

func isFalse(t testing.TB, got bool, msg ...string) {
	t.Helper()
	equal(t, false, got, msg...)
}

func empty[T any](t testing.TB, got []T, msg ...string) {
	t.Helper()
	if len(got) > 0 {
		t.Errorf("%sgot %v; want nothing", why(msg), got)
	}
}

func mustLen[T any](t testing.TB, got []T, want int, msg ...string) {
	t.Helper()
	if len(got) != want {
		t.Fatalf("%sgot %d: %v; want %d", why(msg), len(got), got, want)
	}
}

func noError(t testing.TB, err error, msg ...string) {
	t.Helper()
	if err != nil {
		t.Errorf("%sgot error %v; want none", why(msg), err)
	}
}

func mustNoError(t testing.TB, err error, msg ...string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%sgot error %v; want none", why(msg), err)
	}
}

func errorIs(t testing.TB, err, want error, msg ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%sgot error %v; want %v", why(msg), err, want)
	}
}

func mustErrorAs(t testing.TB, err error, target any) {
	t.Helper()
	if !errors.As(err, target) {
		t.Fatalf("got error %v; want a %T", err, target)
	}
}

func contains(t testing.TB, got any, want string) {
	t.Helper()
	if !strings.Contains(fmt.Sprint(got), want) {
		t.Errorf("got %v; want something with %q", got, want)
	}
}
