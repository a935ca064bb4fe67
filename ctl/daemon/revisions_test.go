package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/config"
)

func TestRevisionsAreKept(t *testing.T) {
	const most = 8
	s := revisions{t.TempDir() + "/revisions", most, revisionsMaxBytes}
	if numbers, err := s.numbers(); err != nil || numbers != nil {
		t.Errorf("without a directory: %v, %v", numbers, err)
	}
	if _, err := s.get(1); !errors.Is(err, errNoRevision) {
		t.Errorf("without a file: %v", err)
	}
	var last revision
	for i := range uint64(most + 5) {
		last = revision{Number: i + 1, Time: time.Date(2026, 1, 2, 3, 4, int(i), 0, time.UTC), Author: "anna", How: byApply, Comment: "ünïcode",
			Config: "a.yaml", Dir: "/etc", Digest: fmt.Sprint(i), YAML: "interfaces: {}\n"}
		if err := errors.Join(s.put(last), s.prune(last.Number)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.get(last.Number); err != nil || !reflect.DeepEqual(got, last) {
		t.Errorf("got %+v, %v", got, err)
	}
	numbers, err := s.numbers()
	if err != nil || len(numbers) != most || numbers[0] != 6 || !slices.IsSorted(numbers) {
		t.Errorf("kept %v, %v", numbers, err)
	}
	// What a daemon that died was about to put in force is no revision.
	if err := errors.Join(s.put(revision{Number: 200}), s.put(revision{Number: 14}), s.prune(14)); err != nil || s.has(200) || !s.has(14) {
		t.Errorf("200 is kept: %t, 14: %t, %v", s.has(200), s.has(14), err)
	}
}

// Large configurations don't fill the disk.
func TestRevisionsAreBounded(t *testing.T) {
	const most = 64 << 10
	s := revisions{t.TempDir(), revisionsMax, most}
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, most/5) // about as much once it is hexadecimal and compressed
	random.Read(noise)
	for i := range uint64(7) {
		if err := errors.Join(s.put(revision{Number: i, YAML: fmt.Sprintf("%x", noise)}), s.prune(i)); err != nil {
			t.Fatal(err)
		}
	}
	numbers, err := s.numbers()
	if err != nil || len(numbers) < 2 || len(numbers) > 4 || numbers[len(numbers)-1] != 6 {
		t.Errorf("kept %v, %v", numbers, err)
	}
}

func TestDamagedRevisions(t *testing.T) {
	s := revisions{t.TempDir(), revisionsMax, revisionsMaxBytes}
	if err := s.put(revision{Number: 3, YAML: strings.Repeat("interfaces: {}\n", 100)}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(s.path(3))
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": nil, "nonsense": []byte("nonsense"), "another's": whole}
	for n := range len(whole) {
		damaged[fmt.Sprintf("cut to %d", n)] = whole[:n]
	}
	for n := 10; n < len(whole); n++ { // behind the header, of which much is ignored
		flipped := slices.Clone(whole)
		flipped[n] ^= 1
		damaged[fmt.Sprintf("byte %d flipped", n)] = flipped
	}
	for name, content := range damaged {
		number := uint64(3)
		if name == "another's" {
			number = 4
		}
		if err := os.WriteFile(s.path(number), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := s.get(number); err == nil || !strings.Contains(err.Error(), s.path(number)+" is damaged") || r.YAML != "" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// What comes back is exactly what was there, whatever a snapshot can hold.
func TestBeforeSurvives(t *testing.T) {
	snapshot, _, err := config.Load("../../configs/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := &before{Revision: 3, Name: "a.yaml", Dir: "/etc", Text: []byte("text"), Digest: digest(snapshot), Snapshot: snapshot}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadBefore(dir)
	if err != nil || got.Digest != want.Digest || !sameLists(got.Snapshot, snapshot) || got.Revision != 3 || string(got.Text) != "text" {
		t.Fatalf("%+v, %v", got, err)
	}
	path := dir + "/" + beforeFile
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += max(1, len(whole)/50) {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadBefore(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	at := clocks{wall: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), boot: time.Hour, id: "a"}
	d := at.after(time.Minute)
	for _, tc := range []struct {
		name string
		now  clocks
		left time.Duration
	}{
		{"at once", at, time.Minute},
		{"later", clocks{at.wall.Add(20 * time.Second), at.boot + 20*time.Second, "a"}, 40 * time.Second},
		{"clock set ahead", clocks{at.wall.Add(24 * time.Hour), at.boot + 20*time.Second, "a"}, 40 * time.Second},
		{"clock set back", clocks{at.wall.Add(-24 * time.Hour), at.boot + 61*time.Second, "a"}, -time.Second},
		{"booted again", clocks{at.wall.Add(20 * time.Second), 5 * time.Second, "b"}, 40 * time.Second},
		{"booted again, too late", clocks{at.wall.Add(2 * time.Minute), 5 * time.Second, "b"}, -time.Minute},
		{"booted again with a wrong clock", clocks{at.wall.Add(-24 * time.Hour), 5 * time.Second, "b"}, time.Minute},
		{"boots can't be told apart", clocks{at.wall.Add(20 * time.Second), 5 * time.Second, ""}, 40 * time.Second},
	} {
		if left := d.left(tc.now); left != tc.left {
			t.Errorf("%s: %s left, want %s", tc.name, left, tc.left)
		}
	}
}

// Whoever changes what somebody else has changed meanwhile is told so, and by whom.
func TestStale(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	read, err := w.api.Snapshot(t.Context())
	w.must(err)
	planned, err := w.api.Plan(t.Context(), api.PlanRequest{Name: "a.yaml", Dir: w.dir, YAML: closed, NoPrice: true})
	w.must(err)
	if planned.Tag != read.Tag || read.Revision != 1 || read.YAML != base {
		t.Errorf("plan says %s, what is in force %+v", planned.Tag, read)
	}
	apply := func(yaml, comment, tag string) (api.ApplyResult, error) {
		return w.api.Apply(t.Context(), api.ApplyRequest{Name: "a.yaml", Dir: w.dir, YAML: yaml, Comment: comment, IfMatch: tag})
	}
	result, err := apply(closed, "no more", read.Tag)
	w.must(err)
	_, err = apply(base, "", read.Tag)
	w.wantProblem(err, api.CodeStale, "revision 2 is in force now (apply by root at ")
	if problem, _ := errors.AsType[*api.Problem](err); problem.Current.Comment != "no more" || problem.Current.Revision != 2 || problem.Current.Tag != result.Tag {
		t.Errorf("current: %+v", problem.Current)
	}
	_, err = w.api.Rollback(t.Context(), api.RollbackRequest{IfMatch: read.Tag})
	w.wantProblem(err, api.CodeStale, "revision 2")
	w.wantPassing(false, "refused")
	// The same content again is another revision, and not what was read.
	_, err = apply(base, "", result.Tag)
	w.must(err)
	_, err = apply(closed, "", read.Tag)
	w.wantProblem(err, api.CodeStale, "revision 3")
}
