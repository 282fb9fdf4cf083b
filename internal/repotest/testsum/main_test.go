package main

import (
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		name, in, want string
		ok             bool
	}{
		{
			name: "all well",
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`,
			want: "ok  \tp\t0.1s\n1 passed, 0 failed, 0 skipped\n",
			ok:   true,
		},
		{
			name: "a failure and a skip",
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"x_test.go:1: got 1; want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    x_test.go:2: needs root\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: "x_test.go:1: got 1; want 2\nFAIL\tp\t0.1s\nskipped:\n  p TestB: x_test.go:2: needs root\n0 passed, 1 failed, 1 skipped\n",
		},
		{
			name: "does not build",
			in: `{"ImportPath":"p","Action":"build-output","Output":"x.go:1: undefined\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p"}
`,
			want: "x.go:1: undefined\nFAIL\tp [build failed]\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "died in the middle",
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: boom\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: "=== did not end: TestA\npanic: boom\nFAIL\tp\t0.1s\n0 passed, 1 failed, 0 skipped\n",
		},
		{name: "nothing ran", in: "go: no packages\n", want: "go: no packages\n0 passed, 0 failed, 0 skipped\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := summarize(strings.NewReader(test.in), &out)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != test.want || ok != test.ok {
				t.Errorf("got %v:\n%s\nwant %v:\n%s", ok, &out, test.ok, test.want)
			}
		})
	}
}
