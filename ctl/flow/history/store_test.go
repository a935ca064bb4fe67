package history

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gardu/ctl/expr"
	"gardu/ctl/flow"
)

// writerDir makes of the test binary a writer that is going to be killed.
const writerDir = "GARDU_TEST_HISTORY_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func options(t testing.TB) Options {
	return Options{Dir: t.TempDir(), Minutes: 24 * time.Hour, Fives: 7 * 24 * time.Hour, Hours: 90 * 24 * time.Hour, MaxSize: 1 << 30, Top: 100}
}

func openStore(t testing.TB, o Options, now time.Time) *Store {
	t.Helper()
	s, problem, err := Open(o, now)
	if err != nil || problem != nil {
		t.Fatal(err, problem)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// write stores reports.
func write(t testing.TB, s *Store, reports []flow.Report, now time.Time) {
	t.Helper()
	r := NewRoller(s.options.Top)
	r.Add(reports, names{}, now)
	batch := r.Take()
	late, err := s.Write(&batch, now)
	if err != nil || late != (Counts{}) {
		t.Fatalf("%+v were late, %v", late, err)
	}
}

// sums adds up each table at each level.
func sums(t testing.TB, s *Store) (all [levelCount][tableCount]Counts) {
	t.Helper()
	for level, length := range levels {
		for table, name := range tableNames {
			stmt, _, err := s.conn.Prepare(fmt.Sprintf(`SELECT coalesce(sum(flows), 0), coalesce(sum(packets), 0), coalesce(sum(bytes), 0),
				coalesce(sum(packets_reply), 0), coalesce(sum(bytes_reply), 0) FROM %s WHERE seconds = %d`, name, length))
			if err != nil {
				t.Fatal(err)
			}
			if !stmt.Step() {
				t.Fatal(stmt.Err())
			}
			all[level][table] = readCounts(stmt, 0)
			stmt.Close()
		}
	}
	return all
}

// holds checks that each table at each level holds exactly that.
func holds(t testing.TB, s *Store, want Counts) {
	t.Helper()
	for level, tables := range sums(t, s) {
		for table, got := range tables {
			if got != want {
				t.Errorf("%s of %d s hold %+v, want %+v", tableNames[table], levels[level], got, want)
			}
		}
	}
	sound(t, s)
}

func sound(t testing.TB, s *Store) {
	t.Helper()
	stmt, _, err := s.conn.Prepare("PRAGMA integrity_check")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	if !stmt.Step() || stmt.ColumnText(0) != "ok" {
		t.Errorf("integrity: %s, %v", stmt.ColumnText(0), stmt.Err())
	}
}

func TestStoreIsExact(t *testing.T) {
	o := options(t)
	s := openStore(t, o, noon)
	site := newSite(3)
	var want Counts
	for m := range 12 {
		now := noon.Add(time.Duration(m) * time.Minute)
		reports := site.reports(400, now, 3*time.Minute) // so that minutes are written again
		write(t, s, reports, now)
		want = want.Plus(sumOf(reports))
	}
	holds(t, s, want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	holds(t, openStore(t, o, noon), want)
}

func by(t testing.TB, text string) expr.GroupKeys {
	t.Helper()
	keys, err := expr.ParseGroup(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func filter(t testing.TB, text string) *expr.Expr {
	t.Helper()
	e, err := expr.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// As long as nothing had to be left out, answers are what a look at the reports themselves gives.
func TestQueryIsTheTruth(t *testing.T) {
	o := options(t)
	o.Top = 5000
	s := openStore(t, o, noon)
	now := noon.Add(2 * time.Hour)
	reports := newSite(4).reports(2000, now, 2*time.Hour)
	for i := range reports { // all of it at its end
		reports[i].First, reports[i].Since = reports[i].Last, reports[i].Last
	}
	write(t, s, reports, now)
	since, until := noon.Add(33*time.Minute), noon.Add(97*time.Minute)
	for _, c := range []struct{ filter, group string }{
		{"", "service"},
		{"", "src/16"},
		{"", "src,dst,dport,proto,vlan,interface,verdict,reason,rule,service,backend"},
		{"verdict drop", "rule"},
		{"host 192.0.0.0/24 and not service service1", "dst,dport"},
		{"dport 443, 80 and proto tcp", "dport"},
		{"src 2001:db8::/32 or interface eth1", "src/24,interface"},
	} {
		e, keys := filter(t, c.filter), by(t, c.group)
		want := map[expr.Group]Counts{}
		for i := range reports {
			r := &reports[i]
			if r.Last.Before(since) || !r.Last.Before(until) {
				continue
			}
			named := naming{names{}, newKinds(), map[ids]*kind{}}
			k := keyOf(r, &named)
			f := expr.Flow{Src: k.src, Dst: k.dst, Dport: k.dport, Proto: r.Proto, Verdict: k.kind.verdict, Reason: k.kind.reason,
				Rule: k.kind.rule, Service: k.kind.service, Backend: k.kind.backend, Interface: k.kind.ifaceName}
			if e.Match(&f) {
				want[keys.Of(&f)] = want[keys.Of(&f)].Plus(countsOf(r))
			}
		}
		answer, err := s.Query(context.Background(), Query{since, until, e, keys})
		if err != nil {
			t.Fatal(err)
		}
		if !answer.Since.Equal(since) || !answer.Until.Equal(until) || answer.Undecided != (Counts{}) {
			t.Errorf("%s by %s: %+v", c.filter, c.group, answer)
		}
		if len(answer.Rows) != len(want) || len(want) < 2 {
			t.Errorf("%s by %s: %d groups, want %d", c.filter, c.group, len(answer.Rows), len(want))
		}
		for _, row := range answer.Rows {
			if want[row.Group] != row.Counts || row.Others != nil {
				t.Errorf("%s by %s: %+v, want %+v", c.filter, c.group, row, want[row.Group])
			}
		}
	}
}

// What had to be left out is in the answer, as others or as undecided.
func TestQueryTellsWhatItDoesNotKnow(t *testing.T) {
	o := options(t)
	o.Top = 2
	s := openStore(t, o, noon)
	var reports []flow.Report
	for n := range 10 {
		r := ended(noon, noon, uint64(10+n))
		r.Src = address4(t, n)
		if n == 0 {
			r.Service = 1
		}
		reports = append(reports, r)
	}
	write(t, s, reports, noon.Add(time.Minute))
	ask := func(f, g string) string {
		t.Helper()
		var keys expr.GroupKeys
		if g != "" {
			keys = by(t, g)
		}
		answer, err := s.Query(context.Background(), Query{noon, noon.Add(time.Hour), filter(t, f), keys})
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]uint64{}
		for _, row := range answer.Rows {
			name := fmt.Sprint(row.Others)
			for _, key := range keys {
				name += " " + key.Value(&row.Group)
			}
			rows[name] += row.Packets
		}
		return fmt.Sprint(rows, " ", answer.Undecided.Packets)
	}
	for _, c := range []struct{ filter, group, want string }{
		{"", "src", "map[[] 198.51.100.8:18 [] 198.51.100.9:19 [src] :108] 0"},
		{"src 198.51.100.9", "src", "map[[] 198.51.100.9:19] 108"},
		{"src 198.51.100.9 and service service1", "service", "map[] 10"}, // those of no service can't be it
		{"not src 198.51.100.9", "src", "map[[] 198.51.100.8:18] 108"},
		{"not (src 198.51.100.9 or service service1)", "src", "map[[] 198.51.100.8:18] 98"},
		{"src != 198.51.100.9 or service \"\"", "", "map[[]:135] 10"},
		{"service service1", "src,service", "map[[src]  service1:10] 0"},
		{"", "service", "map[[] :135 [] service1:10] 0"},
	} {
		if got := ask(c.filter, c.group); got != c.want {
			t.Errorf("%s by %s: %s, want %s", c.filter, c.group, got, c.want)
		}
	}
	for _, text := range []string{"sport 1", "port 1", "bytes > 1k", "age < 1m", "state new"} {
		_, err := s.Query(context.Background(), Query{noon, noon, filter(t, text), nil})
		if _, ok := err.(*QueryError); !ok || !strings.Contains(err.Error(), " dst, host, ") {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, err := s.Query(context.Background(), Query{noon, noon, nil, by(t, "sport")})
	if _, ok := err.(*QueryError); !ok || !strings.Contains(err.Error(), " dst, interface, ") { // nothing is grouped by host
		t.Errorf("by source port: %v", err)
	}
}

// Old intervals go, level by level, and answers come from what is left.
func TestRetention(t *testing.T) {
	o := options(t)
	o.Minutes, o.Fives, o.Hours = time.Hour, 3*time.Hour, 6*time.Hour
	s := openStore(t, o, noon)
	for m := range 600 {
		at := noon.Add(time.Duration(m) * time.Minute)
		write(t, s, []flow.Report{ended(at, at, 1)}, at)
	}
	now := noon.Add(599 * time.Minute) // 21:59
	for level, want := range []uint64{61, 180 + 5, 6*60 + 60, 600} {
		got := sums(t, s)[level]
		for table := range got {
			if got[table].Packets != want {
				t.Errorf("%s of %d s hold %d, want %d", tableNames[table], levels[level], got[table].Packets, want)
			}
		}
	}
	for ago, want := range map[time.Duration]string{
		30 * time.Minute: "1m0s 1",
		2 * time.Hour:    "5m0s 5",
		5 * time.Hour:    "1h0m0s 60",
		9 * time.Hour:    "24h0m0s 600",
		29 * time.Hour:   "0s 0",
	} {
		at := now.Add(-ago).Truncate(time.Minute)
		answer, err := s.Query(context.Background(), Query{Since: at, Until: at.Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		var sum Counts
		for _, row := range answer.Rows {
			sum = sum.Plus(row.Counts)
		}
		length := answer.Until.Sub(answer.Since)
		if len(answer.Rows) == 0 {
			length = 0
		}
		if got := fmt.Sprint(length, " ", sum.Packets); got != want {
			t.Errorf("%v ago: %s, want %s", ago, got, want)
		}
	}
	kinds, err := s.number("SELECT count(*) FROM kinds")
	if err != nil || kinds != 1 {
		t.Errorf("%d kinds, %v", kinds, err)
	}
	// A minute of a level that has dropped it is in the longer ones only, and what is too old for all is told.
	r := NewRoller(10)
	r.Add([]flow.Report{ended(now.Add(-2*time.Hour), now.Add(-2*time.Hour), 1), ended(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, -1), 7)}, names{}, now)
	batch := r.Take()
	late, err := s.Write(&batch, now)
	if err != nil || late.Packets != 7 {
		t.Errorf("%+v were late, %v", late, err)
	}
	if got := sums(t, s); got[0][totals].Packets != 61 || got[1][totals].Packets != 186 || got[2][totals].Packets != 421 || got[3][totals].Packets != 601 {
		t.Errorf("hold %+v", got)
	}
}

// Kinds that nothing is left of go too.
func TestKindsGo(t *testing.T) {
	o := options(t)
	o.Minutes, o.Fives, o.Hours = time.Hour, time.Hour, 2*time.Hour
	s := openStore(t, o, noon)
	var uptime time.Duration
	s.pace.uptime = func() time.Duration { return uptime }
	for h := range 10 {
		at := noon.AddDate(0, 0, h)
		uptime = at.Sub(noon)
		r := ended(at, at, 1)
		r.Rule = uint32(h + 1)
		stays := ended(at, at, 1)
		write(t, s, []flow.Report{r, stays}, at)
	}
	kinds, err := s.number("SELECT count(*) FROM kinds")
	if err != nil || kinds > 6 {
		t.Errorf("%d kinds are left, %v", kinds, err)
	}
	if _, err := s.Query(context.Background(), Query{noon, noon.AddDate(0, 1, 0), nil, by(t, "rule")}); err != nil {
		t.Error(err)
	}
}

// A clock that was years ahead leaves nothing that keeps history from being written.
func TestClockWasAhead(t *testing.T) {
	s := openStore(t, options(t), noon)
	ahead := noon.AddDate(5, 0, 0)
	write(t, s, []flow.Report{ended(ahead, ahead, 1)}, ahead)
	write(t, s, []flow.Report{ended(noon, noon, 2)}, noon)
	answer, err := s.Query(context.Background(), Query{Since: noon, Until: noon.Add(time.Hour)})
	if err != nil || len(answer.Rows) != 1 || answer.Rows[0].Packets != 2 {
		t.Errorf("%+v, %v", answer, err)
	}
}

// A clock that jumps ahead throws nothing away, unless it stays there.
func TestClockJumpsAhead(t *testing.T) {
	o := options(t)
	s := openStore(t, o, noon)
	var uptime time.Duration
	s.pace.uptime = func() time.Duration { return uptime }
	packets := func() uint64 {
		t.Helper()
		answer, err := s.Query(context.Background(), Query{Since: noon, Until: noon.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		var sum uint64
		for _, row := range answer.Rows {
			sum += row.Packets
		}
		return sum
	}
	later := func(by time.Duration, at time.Time) {
		uptime += by
		write(t, s, []flow.Report{ended(at, at, 1)}, at)
	}
	later(0, noon)
	for _, ahead := range []time.Duration{0, 5 * 365 * 24 * time.Hour} {
		later(time.Minute, noon.Add(time.Minute+ahead))
	}
	later(time.Minute, noon.Add(2*time.Minute))
	if got := packets(); got != 3 {
		t.Errorf("%d packets are left of 3, after the clock was ahead for a minute", got)
	}
	ahead := noon.AddDate(5, 0, 0)
	later(time.Minute, ahead)
	later(jumpGrace, ahead.Add(jumpGrace))
	if got := packets(); got != 0 {
		t.Errorf("%d packets are left of another time", got)
	}
}

// The files never take more than allowed, whatever comes; the oldest goes.
func TestSizeIsBounded(t *testing.T) {
	o := options(t)
	o.Top, o.MaxSize = 100, 6<<20
	s := openStore(t, o, noon)
	site := newSite(5)
	most := int64(0)
	for h := range 40 {
		at := noon.Add(time.Duration(h) * time.Hour)
		write(t, s, site.reports(1000, at, 6*time.Minute), at)
		most = max(most, s.Size())
	}
	if o.MaxSize = s.options.MaxSize; most > o.MaxSize || most < o.MaxSize/2 {
		t.Errorf("took %d bytes of %d", most, o.MaxSize)
	}
	if s.Since()[2].Before(noon) {
		t.Error("nothing was dropped")
	}
	sound(t, s)
	answer, err := s.Query(context.Background(), Query{Since: noon, Until: noon.Add(1000 * time.Hour)})
	if err != nil || len(answer.Rows) == 0 {
		t.Errorf("%+v, %v", answer, err)
	}

	// Less is allowed from now on.
	s.Close()
	o.MaxSize, o.Top = 1, 10
	s = openStore(t, o, noon)
	now := noon.Add(41 * time.Hour)
	write(t, s, site.reports(10, now, time.Minute), now)
	if size := s.Size(); size > MinSize(10) {
		t.Errorf("%d bytes are left", size)
	}
}

// What a process killed at any moment had written is there, all of it, and of what it was writing all or nothing.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(6, 7))
	acknowledged := 0
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := random.IntN(20); n >= 0 && lines.Scan(); n-- {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
		}
		for n := random.IntN(1 << 20); n > 0; n-- { // somewhere in a write
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what was in the pipe
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Wait()
		o := options(t)
		o.Dir = dir
		s := openStore(t, o, noon)
		got := sums(t, s)
		written := int(got[0][totals].Flows) / writerFlows
		if written != acknowledged && written != acknowledged+1 {
			t.Errorf("round %d: %d writes are there, %d were acknowledged", round, written, acknowledged)
		}
		var want Counts
		for n := range written {
			want = want.Plus(sumOf(writerReports(n)))
		}
		holds(t, s, want)
		s.Close()
	}
	if acknowledged < 12 {
		t.Errorf("only %d writes in all", acknowledged)
	}
}

const writerFlows = 100

// writerReports are what the writer's nth write holds.
func writerReports(n int) []flow.Report {
	return newSite(uint64(n)).reports(writerFlows, noon.Add(time.Duration(n)*10*time.Second), 3*time.Minute)
}

// writeUntilKilled goes on where the one before was killed, and prints how many writes there are.
func writeUntilKilled(dir string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, problem, err := Open(Options{Dir: dir, Minutes: 24 * time.Hour, Fives: 7 * 24 * time.Hour, Hours: 90 * 24 * time.Hour, Top: 40}, noon)
	if err != nil || problem != nil {
		fail(fmt.Errorf("%v, %v", problem, err))
	}
	flows, err := s.number("SELECT coalesce(sum(flows), 0) FROM totals WHERE seconds = 60")
	if err != nil {
		fail(err)
	}
	for n := int(flows) / writerFlows; ; n++ {
		now := noon.Add(time.Duration(n) * 10 * time.Second)
		r := NewRoller(40)
		r.Add(writerReports(n), names{}, now)
		batch := r.Take()
		if _, err := s.Write(&batch, now); err != nil {
			fail(err)
		}
		fmt.Println(n + 1)
	}
}

// A file with damage is set aside and told, whatever finds it, and history goes on.
func TestCorrupt(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"no database": func([]byte) []byte { return bytes.Repeat([]byte("history "), 1000) },
		"cut off":     func(data []byte) []byte { return data[:len(data)/2] },
		"a bit a page": func(data []byte) []byte { // which pages are read depends on how rows fell into them
			for at := pageSize + pageSize/2; at < len(data); at += pageSize {
				data[at] ^= 4
			}
			return data
		},
		"a page of zero": func(data []byte) []byte { clear(data[len(data)-pageSize:]); return data },
		"header":         func(data []byte) []byte { data[30] ^= 0xff; return data },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			s := openStore(t, o, noon)
			write(t, s, newSite(8).reports(3000, noon, 10*time.Minute), noon)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(o.Dir, fileName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := damage(bytes.Clone(data))
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			s, problem, err := Open(o, noon)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if problem == nil { // it can be opened: it is found when it is read
				_, err = s.Query(context.Background(), Query{noon.Add(-time.Hour), noon.Add(time.Hour), nil, by(t, "src,dst")})
				if err == nil {
					r := NewRoller(100)
					r.Add(newSite(8).reports(3000, noon, 10*time.Minute), names{}, noon)
					batch := r.Take()
					_, err = s.Write(&batch, noon)
				}
				if !corrupt(err) {
					t.Fatalf("it is not noticed: %v", err)
				}
				if problem, err = s.SetAside(err, noon); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.Contains(problem.Error(), setAside) {
				t.Errorf("it says %v", problem)
			}
			aside, err := os.ReadFile(filepath.Join(o.Dir, setAside))
			if err != nil || !bytes.Equal(aside, damaged) {
				t.Errorf("the file set aside is another, %v", err)
			}
			reports := newSite(9).reports(100, noon, time.Minute)
			write(t, s, reports, noon)
			holds(t, s, sumOf(reports))
		})
	}
}

// A file of another version is not touched.
func TestOtherVersion(t *testing.T) {
	o := options(t)
	s := openStore(t, o, noon)
	if err := s.conn.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, _, err := Open(o, noon); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("it says %v", err)
	}
}

// sqlite3 reads the file while it is open here.
func TestSQLite3(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		if os.Getuid() != 0 {
			t.Skip("there is no sqlite3")
		}
		t.Fatal("install sqlite3: make deps-test")
	}
	o := options(t)
	s := openStore(t, o, noon)
	reports := newSite(10).reports(1000, noon, 10*time.Minute)
	write(t, s, reports, noon)
	want := sumOf(reports)
	for query, want := range map[string]string{
		"PRAGMA integrity_check":                              "ok",
		"SELECT sum(bytes) FROM sources WHERE seconds = 60":   fmt.Sprint(want.Bytes),
		"SELECT sum(packets) FROM pairs WHERE seconds = 3600": fmt.Sprint(want.Packets),
		"SELECT sum(flows) FROM totals JOIN kinds ON kinds.id = kind WHERE seconds = 300 AND verdict IN ('pass', 'drop', 'forward')":                              fmt.Sprint(want.Flows),
		"SELECT count(*) > 0 FROM (SELECT src, sum(bytes + bytes_reply) AS n FROM sources WHERE seconds = 3600 AND time >= unixepoch('2026-01-01') GROUP BY src)": "1",
	} {
		out, err := exec.Command("sqlite3", "-readonly", filepath.Join(o.Dir, fileName), query).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", query, got, err, want)
		}
	}
}
