package api

import (
	"fmt"
	"net/http"
	"strings"
)

// Tagged is an answer that holds the tag of the configuration in force, which HTTP calls its ETag. A change that names it in If-Match is
// refused (CodeStale) when somebody has changed the configuration meanwhile.
type Tagged interface{ ConfigTag() string }

// ConfigTag implements Tagged.
func (r ApplyResult) ConfigTag() string { return r.Tag }

// ConfigTag implements Tagged.
func (r Revision) ConfigTag() string { return r.Tag }

// conditional is a request that takes an If-Match.
type conditional interface{ setIfMatch(string) }

func (r *ApplyRequest) setIfMatch(tags string)    { r.IfMatch = tags }
func (r *RollbackRequest) setIfMatch(tags string) { r.IfMatch = tags }

// Tag names a configuration that was in force: no other has the same number and the same content.
func Tag(revision uint64, digest string) string { return fmt.Sprintf("%d-%.12s", revision, digest) }

// Matches tells whether an If-Match holds for a tag: it names it, with the quotes of HTTP or without them, or is empty or "*".
func Matches(ifMatch, tag string) bool {
	if ifMatch == "" {
		return true
	}
	for name := range strings.SplitSeq(ifMatch, ",") {
		if name = strings.TrimSpace(name); name == "*" || strings.Trim(name, `"`) == tag {
			return true
		}
	}
	return false
}

// unchanged answers who has asked with If-None-Match for what has not changed since.
func unchanged(w http.ResponseWriter, r *http.Request, value any) bool {
	tagged, ok := value.(Tagged)
	if !ok || tagged.ConfigTag() == "" {
		return false
	}
	w.Header().Set("ETag", `"`+tagged.ConfigTag()+`"`)
	known := r.Header.Get("If-None-Match")
	if r.Method != http.MethodGet || known == "" || !Matches(known, tagged.ConfigTag()) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}
