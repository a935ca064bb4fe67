package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
)

// replayOptions are what `gardu replay` was asked.
type replayOptions struct {
	config, against, ifname, out string
}

func (a *app) replayCommand() *cobra.Command {
	var o replayOptions
	cmd := a.outputFlag(&cobra.Command{
		Use:   "replay FILE",
		Short: "Judge the packets of a capture, and tell what would become of them",
		Long: `Puts the packets of a pcap or pcapng FILE through the very programs that judge live
ones, on a copy beside them: nothing is counted, remembered or sent. Flows, states and
limits see the time of the capture. All packets count as received, by one interface;
backends count as up, and there are no blocks. Where a capture cut packets, zeros stand
for the payload that it lacks; packets whose headers it cut aren't judged.

It tells how many packets left for which reason, by which rule, to which backend; with
-o ndjson each packet's way, as 'gardu explain' does. --against tells what another
configuration would do differently. Needs root, and a daemon only without -c.`,
		Example: `  sudo gardu replay trace.pcapng
  sudo gardu replay trace.pcap -c gardu.yaml --against new.yaml
  sudo gardu replay trace.pcap -w judged.pcapng      verdicts as packet comments`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.replay(cmd.Context(), args[0], o) },
	})
	cmd.Flags().StringVarP(&o.config, "config", "c", "", "ask the configuration in `FILE`, not the one in force")
	cmd.Flags().StringVarP(&o.ifname, "interface", "i", "", "the `INTERFACE` that receives the packets (default: the first)")
	cmd.Flags().StringVar(&o.against, "against", "", "tell what the configuration in `FILE` would do differently")
	cmd.Flags().StringVarP(&o.out, "write", "w", "", "write the packets to this pcapng `FILE`, with their verdicts as comments")
	return cmd
}

// judge is a replay by one configuration.
type judge struct {
	*explain.Replay
	at    receiver
	names map[int]string
}

func (a *app) newJudge(snapshot *model.Snapshot, path, ifname string) (j judge, err error) {
	if j.Replay, err = explain.NewReplay(snapshot); err != nil {
		return j, fmt.Errorf("%s: %w", path, err)
	}
	if j.at, j.names, err = a.furnish(j.Box, snapshot, path, ifname); err != nil {
		return j, errors.Join(err, j.Close())
	}
	j.Replay.At(j.at.hook, j.at.link.Index)
	return j, nil
}

// replaySnapshot reads the configuration, or that in force: as the history has it, with its set files read anew.
func (a *app) replaySnapshot(ctx context.Context, path string) (snapshot *model.Snapshot, name string, err error) {
	if path != "" {
		snapshot, _, err = config.Load(path)
		return snapshot, path, err
	}
	err = a.ask(func(c *client.Client) error {
		status, err := c.Status(ctx)
		if err != nil {
			return err
		}
		revision, err := c.Revision(ctx, status.Revision)
		if err != nil {
			return err
		}
		name = fmt.Sprintf("revision %d", revision.Revision)
		snapshot, _, err = config.Parse(name, []byte(revision.YAML), revision.Dir)
		return err
	})
	return snapshot, name, err
}

func (a *app) replay(ctx context.Context, path string, o replayOptions) (err error) {
	file, capture, err := openCapture(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := a.needRoot(); err != nil {
		return err
	}
	snapshot, name, err := a.replaySnapshot(ctx, o.config)
	if err != nil {
		return err
	}
	first, err := a.newJudge(snapshot, name, o.ifname)
	if err != nil {
		return err
	}
	defer first.Close()
	r := &replaying{app: a, judge: first, path: path, fates: map[explain.Fate]*api.Counter{}}
	if o.against != "" {
		snapshot, name, err := a.replaySnapshot(ctx, o.against)
		if err != nil {
			return err
		}
		second, err := a.newJudge(snapshot, name, o.ifname)
		if err != nil {
			return err
		}
		defer second.Close()
		r.against, r.changes = &second, map[change]*changed{}
	}
	if o.out != "" {
		done, failed := r.writeTo(o.out, file)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, done(err == nil)) }()
	}
	if a.format == formatNDJSON && r.against == nil {
		out := bufio.NewWriterSize(a.stdout, 1<<16)
		r.lines = lineEncoder(out)
		defer func() { err = errors.Join(err, out.Flush()) }()
	}
	broken, err := r.all(ctx, capture)
	if err != nil {
		return err
	}
	if broken != nil && o.out != "" {
		broken = fmt.Errorf("%w; %s was not written", broken, o.out)
	}
	return errors.Join(r.print(), broken)
}

// openCapture opens a file and reads its head.
func openCapture(path string) (file *os.File, capture *pkt.Capture, err error) {
	if file, err = os.Open(path); err != nil {
		return nil, nil, err
	}
	if info, failed := file.Stat(); failed == nil && info.IsDir() {
		err = errors.New("that is a directory, not a capture")
	} else {
		capture, err = pkt.NewCapture(file)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return file, capture, nil
}

// replaying is a replay under way.
type replaying struct {
	*app
	judge
	path    string
	against *judge
	writer  *pkt.Writer   // nil: nothing is written
	lines   *json.Encoder // nil: packets are not told one by one

	total   api.Replay
	fates   map[explain.Fate]*api.Counter
	changes map[change]*changed
}

// change is one that another configuration makes, by names: the ids of the two have nothing to do with each other.
type change struct{ from, to api.Fate }

// changed are the packets of a change.
type changed struct {
	api.FateChange
	ends map[pkt.Ends]bool
}

// mostEnds bounds the memory for telling flows apart; further ones are not counted.
const mostEnds = 1 << 20

// writeTo has packets written to a file that appears, whole, when done is told that all went well.
func (r *replaying) writeTo(path string, in *os.File) (done func(well bool) error, err error) {
	if info, err := os.Stat(path); err == nil {
		if from, err := in.Stat(); err == nil && os.SameFile(info, from) {
			return nil, usage("-w %s: that is the file which is read", path)
		}
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if failed, ok := errors.AsType[*os.PathError](err); ok { // whose name nobody gave it
		return nil, fmt.Errorf("write %s: %w", path, failed.Err)
	}
	if err != nil {
		return nil, err
	}
	if r.writer, err = pkt.NewWriter(out, r.at.link.Name); err != nil {
		return nil, errors.Join(err, out.Close(), os.Remove(out.Name()))
	}
	return func(well bool) error {
		err := errors.Join(r.writer.Flush(), out.Chmod(0o644), out.Close())
		if err == nil && well {
			return os.Rename(out.Name(), path)
		}
		return errors.Join(err, os.Remove(out.Name()))
	}, nil
}

// all judges packet after packet and sums up, also when there are more which it can't get: broken says why.
func (r *replaying) all(ctx context.Context, capture *pkt.Capture) (broken, err error) {
	release, err := dataplane.OneCPU()
	if err != nil {
		return nil, err
	}
	defer release()
	for broken == nil {
		if ctx.Err() != nil {
			broken = fmt.Errorf("%s: interrupted behind packet %d", r.path, r.total.Packets)
			break
		}
		c, err := capture.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			broken = fmt.Errorf("%s: %w", r.path, err)
			break
		}
		if err := r.packet(c); err != nil {
			return nil, fmt.Errorf("%s: packet %d: %w", r.path, r.total.Packets, err)
		}
	}
	if broken != nil {
		r.total.Broken = broken.Error()
	}
	return broken, r.finish()
}

func (r *replaying) packet(c pkt.Captured) error {
	if r.total.Packets == 0 || c.Time.Before(r.total.First) {
		r.total.First = c.Time
	}
	if c.Time.After(r.total.Last) {
		r.total.Last = c.Time
	}
	r.total.Packets++
	r.total.Bytes += uint64(c.Length)
	result, judged, err := r.Judge(c)
	if err != nil {
		return err
	}
	if !judged {
		if !c.HasHeaders() {
			return r.tell(c, "not judged: the capture hasn't all of its headers", nil)
		}
		r.total.Unjudged++
		return r.tell(c, "not judged: the kernel runs no program with such a frame", nil)
	}
	fate := explain.FateOf(result)
	counter := r.fates[fate]
	if counter == nil {
		counter = &api.Counter{}
		r.fates[fate] = counter
	}
	counter.Packets++
	counter.Bytes += uint64(c.Length)
	if err := r.compare(c, fate); err != nil {
		return err
	}
	if r.writer == nil && r.lines == nil {
		return nil
	}
	return r.tell(c, fateText(fate.In(r.Names())), &result)
}

// tell writes what became of one packet to where it is wanted.
func (r *replaying) tell(c pkt.Captured, comment string, result *dataplane.Result) error {
	if r.writer != nil {
		if err := r.writer.Write(c, comment); err != nil {
			return err
		}
	}
	switch {
	case r.lines == nil:
		return nil
	case result == nil:
		return r.lines.Encode(api.Explanation{Interface: r.at.link.Name, Steps: []api.Step{{Step: "parse", Result: comment}}})
	}
	return r.lines.Encode(explain.Explain(*result, r.Names(), r.at.link.Index, r.names))
}

// fateText is a fate in words: drop, rule-drop, rule ssh.
func fateText(f api.Fate) string {
	words := []string{f.Verdict}
	if f.Reason != f.Verdict {
		words = append(words, f.Reason)
	}
	for _, part := range []struct{ name, value string }{{"rule", f.Rule}, {"service", f.Service}, {"backend", f.Backend}} {
		if part.value != "" {
			words = append(words, part.name+" "+part.value)
		}
	}
	return strings.Join(words, ", ")
}

// fateWords is the same within a sentence: drop (rule-drop, rule ssh).
func fateWords(f api.Fate) string {
	verdict, rest, more := strings.Cut(fateText(f), ", ")
	if more {
		return verdict + " (" + rest + ")"
	}
	return verdict
}

// compare asks the other configuration too.
func (r *replaying) compare(c pkt.Captured, fate explain.Fate) error {
	if r.against == nil {
		return nil
	}
	result, judged, err := r.against.Judge(c)
	if err != nil || !judged {
		return err
	}
	key := change{fate.In(r.Names()), explain.FateOf(result).In(r.against.Names())}
	if key.from == key.to {
		return nil
	}
	found := r.changes[key]
	if found == nil {
		found = &changed{api.FateChange{From: key.from, To: key.to, First: r.total.Packets, Example: c.Text()}, map[pkt.Ends]bool{}}
		r.changes[key] = found
	}
	found.Packets++
	found.Bytes += uint64(c.Length)
	if ends, ok := pkt.EndsOf(c); ok && len(found.ends) < mostEnds {
		found.ends[ends] = true
	}
	return nil
}

// finish sums up.
func (r *replaying) finish() (err error) {
	r.total.Cut, r.total.Bare, r.total.Back = r.Cut, r.Bare, r.Back
	if r.total.Unattributed, err = r.Unattributed(); err != nil {
		return err
	}
	r.total.Fates = []api.FateCount{}
	for fate, counter := range r.fates {
		r.total.Fates = append(r.total.Fates, api.FateCount{Fate: fate.In(r.Names()), Counter: *counter})
	}
	slices.SortFunc(r.total.Fates, func(x, y api.FateCount) int {
		return cmp.Or(cmp.Compare(y.Packets, x.Packets), cmp.Compare(fateText(x.Fate), fateText(y.Fate)))
	})
	for _, found := range r.changes {
		found.Flows = uint64(len(found.ends))
		r.total.Against = append(r.total.Against, found.FateChange)
	}
	slices.SortFunc(r.total.Against, func(x, y api.FateChange) int {
		return cmp.Or(cmp.Compare(y.Packets, x.Packets), cmp.Compare(x.First, y.First))
	})
	return nil
}

func (r *replaying) print() error {
	switch {
	case r.lines != nil:
		return nil
	case r.format == formatNDJSON:
		return printRows(r.app, "differences", r.total.Against, nil)
	case r.format == formatCSV && r.against != nil:
		return printRows(r.app, "differences", r.total.Against, fateChangeColumns(func(example string) string { return example }))
	case r.format == formatCSV:
		return printRows(r.app, "packets", r.total.Fates, fateColumns())
	}
	return printValue(r.app, r.total, r.printTotals)
}

func (r *replaying) printTotals() error {
	t := &r.total
	r.printf("%s, %s, in %s\n", plural(int(t.Packets), "packet"), bytesText(t.Bytes), t.Last.Sub(t.First).Round(time.Millisecond))
	if t.Broken != "" {
		r.printf("%s\n", bad.paint(r.color, "not all of the capture: see the error"))
	}
	for _, remark := range []struct {
		n    uint64
		text string
	}{
		{t.Unjudged, "not judged: the kernel runs no program with a frame so short or long"},
		{t.Bare, "not judged: the capture hasn't all of their headers (a snap length of 128 mostly has)"},
		{t.Cut, "cut by the capture: judged with zeros for what their payload lacks"},
		{t.Back, "older than the one before: judged as if at the same time"},
		{t.Unattributed, "found no place in the replay's flow table"},
	} {
		if remark.n > 0 {
			r.printf("%s\n", fold(plural(int(remark.n), "packet")+" "+remark.text, "  ", r.width()))
		}
	}
	if t.Packets == 0 {
		return nil
	}
	r.printf("\n")
	if err := writeTable(r.stdout, r.color, t.Fates, fateColumns()); err != nil || r.against == nil {
		return err
	}
	if len(t.Against) == 0 {
		r.printf("\nthe other configuration does the same with all of them\n")
		return nil
	}
	r.printf("\nwith the other configuration:\n")
	if r.format == formatWide {
		return writeTable(r.stdout, r.color, t.Against, fateChangeColumns(brief))
	}
	for _, c := range t.Against {
		text := fmt.Sprintf("%s (%s, %s) would go from %s to %s", plural(int(c.Flows), "flow"), plural(int(c.Packets), "packet"), bytesText(c.Bytes), fateWords(c.From), fateWords(c.To))
		r.printf("  %s\n", verdictStyle(c.To.Verdict).paint(r.color, fold(text, "    ", r.width())))
		r.printf("    %s\n", fold(fmt.Sprintf("first packet %d: %s", c.First, c.Example), "      ", r.width()))
	}
	return nil
}

func fateColumns() []column[api.FateCount] {
	return []column[api.FateCount]{
		{"verdict", false, func(f *api.FateCount) any { return styled{f.Verdict, verdictStyle(f.Verdict)} }},
		{"reason", false, func(f *api.FateCount) any { return f.Reason }},
		{"rule", false, func(f *api.FateCount) any { return f.Rule }},
		{"service", false, func(f *api.FateCount) any { return f.Service }},
		{"backend", false, func(f *api.FateCount) any { return f.Backend }},
		{"packets", false, func(f *api.FateCount) any { return f.Packets }},
		{"bytes", false, func(f *api.FateCount) any { return size(f.Bytes) }},
	}
}

func fateChangeColumns(text func(example string) string) []column[api.FateChange] {
	return []column[api.FateChange]{
		{"from", false, func(c *api.FateChange) any { return styled{fateText(c.From), verdictStyle(c.From.Verdict)} }},
		{"to", false, func(c *api.FateChange) any { return styled{fateText(c.To), verdictStyle(c.To.Verdict)} }},
		{"flows", false, func(c *api.FateChange) any { return c.Flows }},
		{"packets", false, func(c *api.FateChange) any { return c.Packets }},
		{"bytes", false, func(c *api.FateChange) any { return size(c.Bytes) }},
		{"first", false, func(c *api.FateChange) any { return c.First }},
		{"example", false, func(c *api.FateChange) any { return text(c.Example) }},
	}
}

// brief is the beginning of a packet's text: a column has no room for more.
func brief(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	return text[:max(0, strings.LastIndexByte(text[:most], ' '))] + " ..."
}
