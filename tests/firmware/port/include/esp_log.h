#pragma once
#include <stdio.h>
#define STUB_LOG(tag, format, ...) printf("%s " format "\n", tag, ##__VA_ARGS__)
#define ESP_LOGE(tag, format, ...) STUB_LOG(tag, format, ##__VA_ARGS__)
#define ESP_LOGW(tag, format, ...) STUB_LOG(tag, format, ##__VA_ARGS__)
#define ESP_LOGI(tag, format, ...) STUB_LOG(tag, format, ##__VA_ARGS__)
