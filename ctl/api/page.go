package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"time"
)

// place finds its way in a list that may have changed since the page before.
type place[T any] struct {
	key  func(*T) string                           // of a row, for the next page to begin after
	find func(rows []T, after string) (int, error) // the first row behind it
}

// pages answers with a list or, when asked for a limit, with a page of it and the way to the next one in the header Link (RFC 8288).
func pages[T any](get func(context.Context) ([]T, error), at place[T]) endpoint {
	return endpoint{params: []param{limitParam, afterParam}, answers: reflect.TypeFor[[]T](), serve: func(w http.ResponseWriter, r *http.Request) error {
		query := r.URL.Query()
		limit, err := parseLimit(query.Get("limit"), "rows")
		if err != nil {
			return err
		}
		rows, err := get(r.Context())
		if err != nil {
			return err
		}
		if after := query.Get("after"); after != "" {
			begin, err := at.find(rows, after)
			if err != nil {
				return err
			}
			rows = rows[begin:]
		}
		if limit > 0 && len(rows) > limit {
			rows = rows[:limit]
			linkNext(w, r.URL, at.key(&rows[limit-1]))
		}
		if rows == nil {
			rows = []T{} // so that clients always find a list
		}
		return sendRows(w, rows)
	}}
}

// sendRows answers with a list as send does, a row after the other: the text of many is larger than they are.
func sendRows[T any](w http.ResponseWriter, rows []T) error {
	w.Header().Set("Content-Type", "application/json")
	control := http.NewResponseController(w)
	out := bufio.NewWriterSize(w, 1<<15)
	var row bytes.Buffer
	encoder := json.NewEncoder(&row)
	encoder.SetEscapeHTML(false)
	before := "["
	for i := range rows {
		row.Reset()
		if err := encoder.Encode(&rows[i]); err != nil {
			return err // cannot happen: rows are plain values
		}
		if i%1024 == 0 {
			control.SetWriteDeadline(time.Now().Add(stallTimeout))
		}
		out.WriteString(before)
		if _, err := out.Write(bytes.TrimSuffix(row.Bytes(), []byte("\n"))); err != nil {
			return nil // a client that stalls or has gone is no failure of ours
		}
		before = ","
	}
	if len(rows) == 0 {
		out.WriteString(before)
	}
	out.WriteString("]\n")
	out.Flush()
	return nil
}

// linkNext says where the next page is.
func linkNext(w http.ResponseWriter, here *url.URL, after string) {
	query := here.Query()
	query.Set("after", after)
	w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", here.Path, query.Encode()))
}

// named finds rows by a name, in whatever order they are.
func named[T any](key func(*T) string) place[T] {
	return place[T]{key, func(rows []T, after string) (int, error) {
		i := slices.IndexFunc(rows, func(row T) bool { return key(&row) == after })
		if i < 0 {
			return 0, NewProblem(CodeGone, "%q is in the list no more: begin with its first page again", after)
		}
		return i + 1, nil
	}}
}

// ordered finds rows in their order, so that it doesn't matter if one is gone.
func ordered[T, K any](key func(*T) string, parse func(string) (K, error), behind func(*T, K) bool) place[T] {
	return place[T]{key, func(rows []T, after string) (int, error) {
		end, err := parse(after)
		if err != nil {
			return 0, NewProblem(CodeInvalid, "after=%s is not where a page ended", after)
		}
		return sort.Search(len(rows), func(i int) bool { return behind(&rows[i], end) }), nil
	}}
}

var (
	byPrefix = ordered(func(b *Block) string { return b.Prefix.String() }, netip.ParsePrefix,
		func(b *Block, end netip.Prefix) bool { return b.Prefix.Compare(end) > 0 })
	byRevision = ordered(func(r *Revision) string { return strconv.FormatUint(r.Revision, 10) },
		func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) },
		func(r *Revision, end uint64) bool { return r.Revision < end })
)
