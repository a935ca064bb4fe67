package dataplane

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package dataplane -output-stem xdp xdp ../../xdp/gardu_xdp.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I../../xdp -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package dataplane -output-stem tc tc ../../tc/gardu_tc.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I../../xdp -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package dataplane -output-stem decap decap ../../tc/decap.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package dataplane -output-stem losses losses ../../tc/losses.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package dataplane -output-stem clock clock ../../tc/clock.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I/usr/include/x86_64-linux-gnu
//go:generate go run ../../bench/count ../../bench/count/instructions.txt clock_bpfel.o decap_bpfel.o losses_bpfel.o tc_bpfel.o xdp_bpfel.o
