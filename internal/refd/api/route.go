package api

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"time"
)

// route is one thing that the API does. The server, the OpenAPI document and the tests go by the same list of them.
type route struct {
	method, path string
	summary      string
	// role is what the caller needs.
	role    Role
	in, out reflect.Type
	// kind is the type of the answer if it is not JSON.
	kind  string
	serve http.HandlerFunc
}

// none is an empty request or answer.
type none struct{}

func (r *route) pattern() string { return r.method + " " + r.path }

// hasBody reports whether the request has a JSON value as its body: that is what a POST without a struct for it does not.
func (r *route) hasBody() bool {
	return (r.method == http.MethodPost || r.method == http.MethodPut) && r.in != reflect.TypeFor[none]()
}

// on makes a route of a function: In is read from the body, strictly, and from the path and the query where its fields are tagged
// so. A request without a body is changed by its fields only.
func on[In, Out any](method, path string, role Role, summary string, do func(context.Context, In) (Out, error)) *route {
	rt := &route{method: method, path: path, role: role, summary: summary, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out]()}
	rt.serve = func(w http.ResponseWriter, r *http.Request) {
		var in In
		if status, err := rt.read(r, &in); err != nil {
			answer(w, status, Problem{Error: "bad request: " + err.Error()})
			return
		}
		out, err := do(r.Context(), in)
		answerWith(w, out, err)
	}
	return rt
}

// answerWith answers with a value, or with what is wrong.
func answerWith(w http.ResponseWriter, out any, err error) {
	p := Problem{}
	if err != nil {
		p.Error = err.Error()
	}
	if several := (*ProblemsError)(nil); errors.As(err, &several) {
		p.Problems = several.Problems
	}
	switch {
	case errors.Is(err, ErrNotFound):
		answer(w, http.StatusNotFound, p)
	case errors.Is(err, ErrRefused):
		answer(w, http.StatusUnprocessableEntity, p)
	case err != nil:
		answer(w, http.StatusInternalServerError, p)
	default:
		answer(w, http.StatusOK, out)
	}
}

// read reads a request; the status is for its error.
func (r *route) read(req *http.Request, in any) (status int, err error) {
	if r.hasBody() {
		if err := decode(req.Body, in); err != nil {
			if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
				return http.StatusRequestEntityTooLarge, err
			}
			return http.StatusBadRequest, err
		}
	}
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return http.StatusBadRequest, fmt.Errorf("query: %w", err)
	}
	if err := readTags(reflect.ValueOf(in).Elem(), req, query); err != nil {
		return http.StatusBadRequest, err
	}
	for name := range query {
		return http.StatusBadRequest, fmt.Errorf("unknown parameter %q", name)
	}
	return 0, nil
}

// readTags fills in what comes from the path and the query, and takes that out of query.
func readTags(v reflect.Value, req *http.Request, query url.Values) error {
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			if err := readTags(v.Field(i), req, query); err != nil {
				return err
			}
			continue
		}
		if name := field.Tag.Get("path"); name != "" {
			if err := parseInto(v.Field(i), req.PathValue(name)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		name := field.Tag.Get("query")
		values := query[name]
		if name == "" || len(values) == 0 {
			continue
		}
		delete(query, name)
		if err := parseAll(v.Field(i), values); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

// parseAll parses the values of one parameter.
func parseAll(v reflect.Value, values []string) error {
	if v.Kind() != reflect.Slice {
		if len(values) > 1 {
			return errors.New("given more than once")
		}
		return parseInto(v, values[0])
	}
	const most = 256
	if len(values) > most {
		return fmt.Errorf("given more than %d times", most)
	}
	list := reflect.MakeSlice(v.Type(), len(values), len(values))
	for i, text := range values {
		if err := parseInto(list.Index(i), text); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

// parseInto parses one value.
func parseInto(v reflect.Value, text string) error {
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return t.UnmarshalText([]byte(text)) //nolint:wrapcheck // the caller adds what it was
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		var n int64
		n, err = strconv.ParseInt(text, 10, v.Type().Bits())
		v.SetInt(n)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		n, err = strconv.ParseUint(text, 10, v.Type().Bits())
		v.SetUint(n)
	default:
		err = fmt.Errorf("no %s is read from here", v.Type())
	}
	if err != nil {
		return fmt.Errorf("%q: %w", text, errors.Unwrap(err))
	}
	return nil
}

// decode reads one JSON value and nothing else.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err //nolint:wrapcheck // the caller adds what it was
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err != nil {
			return err //nolint:wrapcheck // as above: it may be too much of white space
		}
		return errors.New("there is more behind the JSON value")
	}
	return nil
}

// writeLimit is how long a caller may take to read an answer, or an event of a stream.
const writeLimit = 10 * time.Second

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeLimit)) // a recorder of a test has none
	w.WriteHeader(status)
	if _, err := w.Write(append(b, '\n')); err != nil {
		return // the peer is gone: nobody is left to tell
	}
}
