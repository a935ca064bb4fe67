package metric_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const configs = "../../configs"

// exposed returns the names of everything that is exposed.
func exposed(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for line := range strings.Lines(scrape(t, everything())) {
		if name := regexp.MustCompile(`^\w+`).FindString(line); name != "" {
			names[name] = true
		}
	}
	return names
}

// named returns the metrics of gardu that a file names, and that it makes itself of others.
func named(t *testing.T, path string) (names []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names = regexp.MustCompile(`\b[\w:]*gardu_\w+\b[\w:]*`).FindAllString(string(text), -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric", path)
	}
	return names
}

// What is shipped for Prometheus asks for metrics that are there, for each alert there is a test, and promtool agrees.
func TestPrometheusFiles(t *testing.T) {
	rules := filepath.Join(configs, "prometheus/gardu.rules.yml")
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	names := exposed(t)
	for _, record := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(string(text), -1) {
		names[record[1]] = true
	}
	for _, path := range []string{rules, "testdata/rules_test.yml"} {
		for _, name := range named(t, path) {
			if !names[name] {
				t.Errorf("%s names %s, which isn't exposed", path, name)
			}
		}
	}
	tests, err := os.ReadFile("testdata/rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(tests), `alertname="`+alert[1]+`"`) {
			t.Errorf("no test of the alert %s", alert[1])
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool")
	}
	for _, args := range [][]string{
		{"check", "config", filepath.Join(configs, "prometheus/prometheus.yml")},
		{"check", "rules", "--lint-fatal", rules},
		{"test", "rules", "testdata/rules_test.yml"},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// The dashboard asks for metrics that are there, in expressions that Prometheus takes.
func TestDashboard(t *testing.T) {
	path := filepath.Join(configs, "grafana/gardu.json")
	names := exposed(t)
	for _, name := range named(t, path) {
		if !names[name] {
			t.Errorf("%s names %s, which isn't exposed", path, name)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	expressions := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range under(dashboard, "expr") {
		fmt.Fprintf(&rules, "  - {record: panel_%d, expr: %q}\n", i, expressions.Replace(expr))
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool")
	}
	if out, err := exec.Command(promtool, "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// under returns the texts that stand under a key, anywhere in a JSON value.
func under(value any, key string) (texts []string) {
	switch value := value.(type) {
	case map[string]any:
		if text, ok := value[key].(string); ok {
			texts = append(texts, text)
		}
		for _, member := range value {
			texts = append(texts, under(member, key)...)
		}
	case []any:
		for _, item := range value {
			texts = append(texts, under(item, key)...)
		}
	}
	return texts
}
