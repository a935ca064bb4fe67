package api

import (
	"context"
	"net/url"
)

const weightMax = 65535

func (h *handler) drain(ctx context.Context, request DrainRequest) (Ordered, error) {
	if request.Timeout < 0 {
		return Ordered{}, NewProblem(CodeInvalid, "the time-out is negative")
	}
	return h.engine.Drain(ctx, request)
}

func (h *handler) undrain(ctx context.Context, query url.Values) (Ordered, error) {
	return h.engine.Undrain(ctx, query.Get("service"), query.Get("backend"))
}

func (h *handler) weigh(ctx context.Context, request WeightRequest) (Ordered, error) {
	if w := request.Weight; w != nil && (*w < 0 || *w > weightMax) {
		return Ordered{}, NewProblem(CodeInvalid, "the weight is %d, and must be 0 to %d", *w, weightMax)
	}
	return h.engine.Weigh(ctx, request)
}
