package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// Every setting that names a file, a socket, a driver or a service is changed in the file only: what checkPaths looks at, and what this
// system does not check.
func TestPathsAreChangedInTheFileOnly(t *testing.T) {
	f := Default()
	spoil(reflect.ValueOf(&f).Elem())
	f.Lists = nil // no setting
	handled := map[string]bool{"history.path": true, "kext.driver": true, "kext.device": true, "kext.service": true}
	for _, v := range f.checkPaths() {
		key, _, _ := strings.Cut(v.path, "[")
		handled[key] = true
	}
	if len(handled) < 6 {
		t.Fatalf("only %v: the test spoils nothing", handled)
	}
	for _, s := range f.Settings() {
		if handled[s.Key] && !s.FileOnly {
			t.Errorf("%s can be changed by the API", s.Key)
		}
		delete(handled, s.Key)
	}
	if len(handled) > 0 {
		t.Errorf("no settings: %v", handled)
	}
}

// spoil writes what can be no path into all texts.
func spoil(v reflect.Value) {
	const bad = `no/such\path"`
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
	case v.Kind() == reflect.String:
		v.SetString(bad)
	case v.Type() == reflect.TypeFor[[]string]():
		v.Set(reflect.ValueOf([]string{bad}))
	case v.Kind() == reflect.Struct && !isText(v):
		for i := range v.NumField() {
			spoil(v.Field(i))
		}
	}
}
