package doctor

// Result is what a finding comes to.
type Result string

const (
	OK   Result = "ok"
	Warn Result = "warn" // it works, but not as well as it could, or not always
	Fail Result = "fail" // it doesn't work
)

// Finding is one thing that was looked at.
type Finding struct {
	Area    string `json:"area"`    // machine, interface, backend, configuration
	Subject string `json:"subject"` // which of them: eth0, web/b1, line 7; or what of the machine: jit, btf
	Result  Result `json:"result"`
	Found   string `json:"found"`
	Advice  string `json:"advice,omitempty"` // what to do; empty when it is ok
}

// Failed counts the findings that fail.
func Failed(findings []Finding) (n int) {
	for _, f := range findings {
		if f.Result == Fail {
			n++
		}
	}
	return n
}

// findings collects them under one area.
type findings struct {
	area string
	list []Finding
}

func (f *findings) add(result Result, subject, found, advice string) {
	f.list = append(f.list, Finding{Area: f.area, Subject: subject, Result: result, Found: found, Advice: advice})
}
