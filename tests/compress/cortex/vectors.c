extern char __stack;
extern void _start(void);
__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {&__stack, (const void *)_start};
