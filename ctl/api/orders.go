package api

import (
	"context"
	"net/http"
)

const weightMax = 65535

func (h *handler) drain(ctx context.Context, request DrainRequest) (Ordered, error) {
	if request.Timeout < 0 {
		return Ordered{}, NewProblem(CodeInvalid, "the time-out is negative")
	}
	return h.engine.Drain(ctx, request)
}

func (h *handler) undrain(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	ordered, err := h.engine.Undrain(r.Context(), query.Get("service"), query.Get("backend"))
	return reply(w, ordered, err)
}

func (h *handler) weigh(ctx context.Context, request WeightRequest) (Ordered, error) {
	if w := request.Weight; w != nil && (*w < 0 || *w > weightMax) {
		return Ordered{}, NewProblem(CodeInvalid, "the weight is %d, and must be 0 to %d", *w, weightMax)
	}
	return h.engine.Weigh(ctx, request)
}
