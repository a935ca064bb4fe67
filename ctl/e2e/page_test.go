package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// browser is a real one, with one page, spoken to by the protocol of its developer tools over a pipe: JSON, a zero byte after each message.
type browser struct {
	*world
	to       *os.File
	from     *bufio.Reader
	id       int
	session  string
	troubles []string // scripts that failed, and what the policy of the page forbade
}

// browse opens the page in the box.
func (w *world) browse(url string) *browser {
	w.Helper()
	theirIn, to, err := os.Pipe()
	w.must(err)
	from, theirOut, err := os.Pipe()
	w.must(err)
	defer theirIn.Close()
	defer theirOut.Close()
	w.Cleanup(func() { to.Close(); from.Close() })
	cmd := exec.Command("chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--user-data-dir="+w.path("browser"))
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	_, err = w.box.Start(cmd)
	w.must(err)
	b := &browser{world: w, to: to, from: bufio.NewReader(from)}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Runtime", "Log", "Page"} {
		b.call(domain+".enable", nil, nil)
	}
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	return b
}

// call has the browser do something and reads its answer; of what it tells meanwhile, troubles are kept.
func (b *browser) call(method string, params map[string]any, into any) {
	b.Helper()
	b.id++
	request, err := json.Marshal(map[string]any{"id": b.id, "method": method, "params": params, "sessionId": b.session})
	b.must(err)
	if b.session == "" {
		request, err = json.Marshal(map[string]any{"id": b.id, "method": method, "params": params})
		b.must(err)
	}
	_, err = b.to.Write(append(request, 0))
	b.must(err)
	for {
		text, err := b.from.ReadBytes(0)
		b.must(err)
		var message struct {
			ID     int
			Method string
			Params struct {
				Entry            struct{ Level, Text string }
				ExceptionDetails json.RawMessage
			}
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		b.must(json.Unmarshal(text[:len(text)-1], &message))
		switch {
		case message.Method == "Runtime.exceptionThrown":
			b.troubles = append(b.troubles, string(message.Params.ExceptionDetails))
		case message.Method == "Log.entryAdded" && message.Params.Entry.Level == "error":
			b.troubles = append(b.troubles, message.Params.Entry.Text)
		case message.ID != b.id:
		case message.Error != nil:
			b.Fatalf("%s: %s", method, message.Error.Message)
		default:
			if into != nil {
				b.must(json.Unmarshal(message.Result, into))
			}
			return
		}
	}
}

// shows is what a script finds in the page, or why it failed: the page may not be there yet.
func (b *browser) shows(script string) string {
	b.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &answer)
	if wrong := answer.ExceptionDetails; wrong != nil {
		return wrong.Exception.Description
	}
	return fmt.Sprint(answer.Result.Value)
}

// untilShown waits until the page shows it.
func (b *browser) untilShown(script, want string) {
	b.Helper()
	b.until(script, func() error {
		if got := b.shows(script); got != want {
			return fmt.Errorf("it is %q, not %q", got, want)
		}
		return nil
	})
}

// row is the text of a row of one of the tables, its cells joined by bars.
func row(caption, first string) string {
	return fmt.Sprintf(`(() => {
		const table = [...document.querySelectorAll("#tables table")].find(t => t.caption.textContent.startsWith(%q));
		const row = [...table.tBodies[0].rows].find(r => r.cells[0].textContent === %q);
		return row ? [...row.cells].map(c => c.textContent).join("|") : "no such row";
	})()`, caption, first)
}

// TestPage looks at the daemon with a real browser.
func TestPage(t *testing.T) {
	w := newWorld(t, 1)
	w.listen = "127.0.0.1:9180"
	w.startWeb()
	w.start(metered)
	w.ready()
	w.send(w.dial("198.51.100.1:9"), 7)
	w.must(w.answers("192.0.2.10"))
	_, err := w.gardu("block", "203.0.113.0/24", "--why", "<b>scan</b>")
	w.must(err)

	b := w.browse("http://127.0.0.1:9180/")
	b.untilShown(`document.getElementById("state").textContent`, "live")
	b.untilShown(row("Rules", "nine"), "nine|proto: udp, dport: 9|drop|0|7|7")
	b.untilShown(`[...document.querySelectorAll("#now dd")].at(-1).textContent`, "7")
	for _, want := range []string{"web|b1|10.0.1.11|100|up", "203.0.113.0/24|0|never|cli|<b>scan</b>"} {
		name, _, _ := strings.Cut(want, "|")
		caption := map[bool]string{true: "Backends", false: "Blocks"}[name == "web"]
		b.until(want, func() error {
			if got := b.shows(row(caption, name)); !strings.HasPrefix(got, want) {
				return errors.New(got)
			}
			return nil
		})
	}
	b.untilShown(`document.querySelectorAll("#tables b").length`, "0") // text stays text

	b.shows(`document.getElementById("packet").value = "tcp 198.51.100.10:40000 > 192.0.2.10:80 syn"; document.querySelector("#ask button").click()`)
	b.untilShown(`document.getElementById("key").hidden`, "false")
	secret, err := w.gardu("token", "create", "browser", "--scope", "read")
	w.must(err)
	b.shows(fmt.Sprintf(`document.getElementById("token").value = %q; document.querySelector("#key button").click(); document.querySelector("#ask button").click()`, strings.TrimSpace(secret)))
	b.untilShown(`/forward, forward/.test(document.getElementById("answer").textContent)`, "true")
	b.shows(`document.getElementById("filter").value = "dport many"; document.querySelector("#pick button").click()`)
	b.untilShown(`/many/.test(document.getElementById("wrong").textContent)`, "true")
	b.shows(`document.getElementById("filter").value = "dport 9"; document.querySelector("#pick button").click()`)
	b.until("flows to port 9", func() error {
		w.send(w.dial("198.51.100.1:9"), 1)
		if got := b.shows(`document.getElementById("flows").textContent`); !strings.Contains(got, "198.51.100.10") {
			return errors.New(got)
		}
		return nil
	})
	for _, trouble := range b.troubles {
		if !strings.Contains(trouble, "400") && !strings.Contains(trouble, "401") { // the filter that is none, the token that was missing
			t.Error(trouble)
		}
	}

	w.must(w.daemon.Signal(syscall.SIGKILL))
	<-w.daemon.Done()
	w.daemon = nil
	b.untilShown(`document.getElementById("state").className`, "bad")
	w.start(metered)
	b.untilShown(`document.getElementById("state").textContent`, "live")
	b.untilShown(row("Rules", "nine")+`.split("|")[0]`, "nine")
}
