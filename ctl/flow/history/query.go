package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"gardu/ctl/expr"
)

// Query asks what flows did in a time.
type Query struct {
	Since, Until time.Time
	Filter       *expr.Expr     // nil: all
	Group        expr.GroupKeys // none: all together
}

// Answer is what flows did in a time, which may be wider than was asked for: intervals are whole, and of what is old only long
// ones are left. What is too old to be kept is missing, and Since says so. The sum of all rows and of Undecided is what flows did that
// the filter doesn't exclude.
type Answer struct {
	Since, Until time.Time
	Rows         []Row  // in no order
	Undecided    Counts // of flows that are added up without what the filter asks for
	Sample       int    // the most packets of which one was counted; 0: there is no answer
}

// Row is a group of flows.
type Row struct {
	expr.Group
	// Others are the keys that aren't known of these flows, because they were too small to be kept by themselves.
	Others []string
	Counts
}

// QueryError is a query that can't be answered.
type QueryError struct{ message string }

func (e *QueryError) Error() string { return e.message }

// A filter can ask for these keys, by what they need: what is kept of flows.
const (
	needKind = 1 << iota
	needSrc
	needDst
)

var keyNeeds = map[string]int{
	"src": needSrc, "dst": needDst, "dport": needDst, "host": needSrc | needDst,
	"proto": needKind, "vlan": needKind, "verdict": needKind, "reason": needKind, "rule": needKind, "service": needKind,
	"backend": needKind, "interface": needKind,
}

// What others lack: of rows without ends, and without a kind. The verdict is always there.
var (
	unknownEnds = []string{"src", "dst", "dport", "host"}
	unknownKind = []string{"proto", "vlan", "reason", "rule", "service", "backend", "interface"}
	unknownAll  = slices.Concat(unknownEnds, unknownKind)
)

// notGroups are keys that pick flows but don't group them.
var notGroups = []string{"host"}

// table is the smallest that can answer a query.
func (q *Query) table() (int, error) {
	needs := 0
	need := func(what, name string, but ...string) error {
		n, ok := keyNeeds[name]
		if !ok {
			keys := slices.DeleteFunc(slices.Sorted(maps.Keys(keyNeeds)), func(key string) bool { return slices.Contains(but, key) })
			return &QueryError{fmt.Sprintf("flows of the past can't be %s %s: they are added up, by %s", what, name, strings.Join(keys, ", "))}
		}
		needs |= n
		return nil
	}
	if q.Filter != nil {
		for _, name := range q.Filter.Uses() {
			if err := need("picked by", name); err != nil {
				return 0, err
			}
		}
	}
	for _, key := range q.Group {
		if err := need("grouped by", key.Name, notGroups...); err != nil {
			return 0, err
		}
	}
	switch needs & (needSrc | needDst) {
	case needSrc | needDst:
		return pairs, nil
	case needSrc:
		return sources, nil
	case needDst:
		return destinations, nil
	}
	return totals, nil
}

// groupsMax bounds the groups of an answer; the smaller half of more is added up.
const groupsMax = 1 << 17

// Query answers from the file, and may be called at any time by anybody. The error may be a *QueryError.
func (s *Store) Query(ctx context.Context, q Query) (Answer, error) {
	table, err := q.table()
	if err != nil {
		return Answer{}, err
	}
	r, err := openReader(ctx, s.path)
	if err != nil {
		return Answer{}, fmt.Errorf("read history: %w", err)
	}
	defer r.close()
	answer, err := r.answer(&q, table)
	if err != nil {
		return Answer{}, fmt.Errorf("read history: %w", cmp.Or(ctx.Err(), err))
	}
	return answer, nil
}

// reader is a connection of its own, which sees the file as it was when it began.
type reader struct {
	conn  *sqlite3.Conn
	stmts map[string]*sqlite3.Stmt
}

func openReader(ctx context.Context, path string) (*reader, error) {
	conn, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READWRITE)
	if err != nil {
		return nil, err
	}
	r := &reader{conn, map[string]*sqlite3.Stmt{}}
	conn.SetInterrupt(ctx)
	if err := errors.Join(conn.BusyTimeout(busyTimeout), conn.Exec("PRAGMA query_only = 1; BEGIN")); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) close() {
	r.conn.SetInterrupt(context.Background())
	for _, stmt := range r.stmts {
		stmt.Close()
	}
	r.conn.Close()
}

func (r *reader) stmt(sql string, args ...int64) (*sqlite3.Stmt, error) {
	stmt := r.stmts[sql]
	if stmt == nil {
		var err error
		if stmt, _, err = r.conn.Prepare(sql); err != nil {
			return nil, err
		}
		r.stmts[sql] = stmt
	}
	for i, arg := range args {
		if err := stmt.BindInt64(i+1, arg); err != nil {
			return nil, err
		}
	}
	return stmt, nil
}

// kept reads from when on each level is whole.
func (r *reader) kept() (kept [levelCount]int64, err error) {
	for level, length := range levels {
		stmt, err := r.stmt("SELECT since FROM levels WHERE seconds = ?", length)
		if err != nil {
			return kept, err
		}
		kept[level] = never
		if stmt.Step() {
			kept[level] = stmt.ColumnInt64(0)
		}
		if err := errors.Join(stmt.Err(), stmt.Reset()); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

func (r *reader) answer(q *Query, table int) (Answer, error) {
	answer := Answer{Since: q.Since, Until: q.Until}
	kept, err := r.kept()
	if err != nil {
		return answer, err
	}
	spans := cover(q.Since, q.Until, kept)
	if len(spans) == 0 {
		return answer, nil
	}
	answer.Since, answer.Until = time.Unix(spans[0].from, 0), time.Unix(spans[len(spans)-1].to, 0)
	sum := newSummary(q)
	for _, span := range spans {
		if err := r.add(sum, table, span); err != nil {
			return answer, err
		}
	}
	answer.Rows, answer.Undecided, answer.Sample = sum.rows(), sum.undecided, int(sum.sample)
	return answer, nil
}

// add reads the rows of a span.
func (r *reader) add(sum *summary, table int, span span) error {
	stmt, err := r.stmt(selectSQL(table), levels[span.level], span.from, span.to)
	if err != nil {
		return err
	}
	ends := endCount(table)
	for stmt.Step() {
		k, err := r.kind(sum, stmt.ColumnInt64(ends))
		if err != nil {
			return errors.Join(err, stmt.Reset())
		}
		row := readEnds(stmt, table)
		sum.add(&row, k, row.others(table), readCounts(stmt, ends+1))
	}
	return errors.Join(stmt.Err(), stmt.Reset())
}

// others says whether a row lacks ends that its table has.
func (k key) others(table int) bool {
	return table != totals && !k.src.IsValid() && !k.dst.IsValid()
}

// kind returns a kind of the file.
func (r *reader) kind(sum *summary, id int64) (*kind, error) {
	k := sum.kinds[id]
	if k == nil {
		found, err := readKind(r, id)
		if err != nil {
			return nil, err
		}
		if len(sum.kinds) >= kindCache {
			clear(sum.kinds)
		}
		k = &found
		sum.kinds[id] = k
	}
	return k, nil
}

// summary adds rows up by group.
type summary struct {
	query     *Query
	kinds     map[int64]*kind
	groups    map[group]Counts
	undecided Counts
	sample    uint16      // the largest
	lacks     [4][]string // keys of the groups that rows lack, by lackEnds and lackKind
}

// group is one of flows that lack the same.
type group struct {
	expr.Group
	lack uint8
}

const (
	lackEnds = 1 << iota
	lackKind
)

func newSummary(q *Query) *summary {
	s := &summary{query: q, kinds: map[int64]*kind{}, groups: map[group]Counts{}}
	for lack := range s.lacks {
		for _, key := range q.Group {
			if slices.Contains(unknown(uint8(lack)), key.Name) {
				s.lacks[lack] = append(s.lacks[lack], key.Name)
			}
		}
	}
	return s
}

func unknown(lack uint8) []string {
	switch lack {
	case lackEnds:
		return unknownEnds
	case lackKind:
		return unknownKind
	case lackEnds | lackKind:
		return unknownAll
	}
	return nil
}

// add takes a row, which may be of others.
func (s *summary) add(row *key, k *kind, others bool, c Counts) {
	var lack uint8
	if others {
		lack |= lackEnds
	}
	if k.other {
		lack |= lackKind
	}
	f := expr.Flow{
		Src: row.src, Dst: row.dst, Dport: row.dport, Proto: k.proto, Vlan: k.vlan,
		Verdict: k.verdict, Reason: k.reason, Rule: k.rule, Service: k.service, Backend: k.backend, Interface: k.ifaceName,
		Unknown: unknown(lack),
	}
	if filter := s.query.Filter; filter != nil {
		switch {
		case !filter.Possible(&f):
			return
		case !filter.Certain(&f):
			s.undecided = s.undecided.Plus(c)
			return
		}
	}
	s.sample = max(s.sample, k.sample)
	g := group{Group: s.query.Group.Of(&f)}
	if len(s.lacks[lack]) > 0 {
		g.lack = lack
	}
	s.groups[g] = s.groups[g].Plus(c)
	if len(s.groups) > groupsMax {
		s.halve()
	}
}

// halve adds the smaller half of the groups up.
func (s *summary) halve() {
	type entry struct {
		group
		Counts
	}
	var all []entry
	for g, c := range s.groups {
		all = append(all, entry{g, c})
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(b.allBytes(), a.allBytes()) })
	for _, e := range all[len(all)/2:] {
		delete(s.groups, e.group)
	}
	for _, e := range all[len(all)/2:] {
		rest := group{Group: expr.Group{Verdict: e.Verdict}, lack: lackEnds | lackKind}
		s.groups[rest] = s.groups[rest].Plus(e.Counts)
	}
}

func (s *summary) rows() []Row {
	rows := make([]Row, 0, len(s.groups))
	for g, c := range s.groups {
		rows = append(rows, Row{g.Group, s.lacks[g.lack], c})
	}
	return rows
}
