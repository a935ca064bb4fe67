package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// TestEstimatesAreLikeResults holds what `gardu check --cost` says against the newest results of a whole run.
func TestEstimatesAreLikeResults(t *testing.T) {
	net := newestNet(t)
	for _, s := range filterScenarios() {
		measured, ok := net[s.name]
		if !ok || s.snapshot == nil || unlikeEstimates.MatchString(s.name) {
			continue
		}
		snapshot := s.snapshot()
		ids, _, err := compile.IDs{}.Assign(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := compile.Compile(snapshot, ids)
		if err != nil {
			t.Fatal(err)
		}
		if len(tables.Runs) == 0 {
			continue
		}
		typical, worst := tables.Runs[0].Estimate(tables.Cost.Bytes[abi.TableSets])
		t.Logf("%-30s measured %4.0f ns, typical %4.0f, worst %5.0f, by %.2f; probes %.1f", s.name, measured, typical, worst, typical/measured, tables.Runs[0].Typical)
		if halfMiss.MatchString(s.name) {
			if measured < typical || measured > worst {
				t.Errorf("%s: the estimates are %.0f and at worst %.0f ns, measured were %.0f", s.name, typical, worst, measured)
			}
			continue
		}
		within := 1.5
		if hardToEstimate.MatchString(s.name) {
			within = 2.2
		}
		if math.Abs(math.Log(typical/measured)) > math.Log(within) || worst < typical {
			t.Errorf("%s: the estimate is %.0f ns, measured were %.0f", s.name, typical, measured)
		}
	}
}

// unlikeEstimates are cases of other things: a limit is no search, and an estimate is for a packet that a rule is about.
var unlikeEstimates = regexp.MustCompile(`^limit|miss$|5 %$|^set 1M, half$`)

// hardToEstimate: earlier, wider rules of firewalls decide for packets that others are about too.
var hardToEstimate = regexp.MustCompile(`^fw `)

// halfMiss: of the hard set's packets half miss by little, and take more than one that a rule is about.
var halfMiss = regexp.MustCompile(`hard$`)

// newestNet are the ns of each case, less those of the empty program.
func newestNet(t *testing.T) map[string]float64 {
	t.Helper()
	pages, err := filepath.Glob("results/2*.json")
	if err != nil {
		t.Fatal(err)
	}
	var newest time.Time
	var net map[string]float64
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		measured := map[string]float64{}
		for _, c := range r.Cases {
			if c.Failed == "" && c.Batch == "filter" {
				measured[c.Name] = c.Net
			}
		}
		if len(measured) > 0 && r.Time.After(newest) {
			newest, net = r.Time, measured
		}
	}
	if net == nil {
		t.Fatal("there are no results")
	}
	return net
}
