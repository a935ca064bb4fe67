package rule

import (
	"fmt"
	"strconv"
	"time"

	"gardu/ctl/model"
)

// FormatRate prints the rate of a limit as a configuration has it: "10k/s", "64kB/m", "100Mbit/s".
func FormatRate(l model.Limit) string {
	every, unit := l.Every, ""
	if l.Bytes {
		unit = "B"
	}
	if l.Bytes && every%(8*time.Second) == 0 { // a rate in bits is that many bytes in eight times the time
		every, unit = every/8, "bit"
	}
	per := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}[every]
	return amount(l.Rate) + unit + "/" + per
}

// FormatBurst prints the burst of a limit: "20k", "64kB".
func FormatBurst(l model.Limit) string {
	if l.Bytes {
		return amount(l.Burst) + "B"
	}
	return amount(l.Burst)
}

// FormatPer prints what a limit has buckets for: "rule", "src/24".
func FormatPer(p model.Per) string {
	if (p.What == model.PerSource || p.What == model.PerDest) && p.Bits != [2]int{32, 128} {
		return fmt.Sprintf("%s/%d", p.What, p.Bits[0])
	}
	return string(p.What)
}

// amount is a number with the largest unit that keeps it whole.
func amount(n uint64) string {
	units := []string{"", "k", "M", "G"}
	at := 0
	for ; at < len(units)-1 && n >= 1000 && n%1000 == 0; at++ {
		n /= 1000
	}
	return strconv.FormatUint(n, 10) + units[at]
}
