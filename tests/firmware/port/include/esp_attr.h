#pragma once
#include "sdkconfig.h"
#if CONFIG_SOC_RTC_FAST_MEM_SUPPORTED || CONFIG_SOC_RTC_SLOW_MEM_SUPPORTED
#define RTC_NOINIT_ATTR __attribute__((section(".rtc_noinit")))
#else
#define RTC_NOINIT_ATTR _Static_assert(0, "no RTC memory on this chip");
#endif
