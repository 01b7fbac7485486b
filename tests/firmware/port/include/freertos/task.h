#pragma once
#include "freertos/FreeRTOS.h"
typedef struct tskTaskControlBlock *TaskHandle_t;
typedef void (*TaskFunction_t)(void *);
#define configSTACK_DEPTH_TYPE uint32_t
void stub_critical(portMUX_TYPE *mux);
#define taskENTER_CRITICAL(x) stub_critical(x)
#define taskEXIT_CRITICAL(x) stub_critical(x)
BaseType_t xTaskCreate(TaskFunction_t pxTaskCode, const char *const pcName,
                       const configSTACK_DEPTH_TYPE usStackDepth, void *const pvParameters,
                       UBaseType_t uxPriority, TaskHandle_t *const pxCreatedTask);
void vTaskDelay(const TickType_t xTicksToDelay);
void vTaskDelete(TaskHandle_t xTaskToDelete);
TickType_t xTaskGetTickCount(void);
BaseType_t xTaskDelayUntil(TickType_t *const pxPreviousWakeTime, const TickType_t xTimeIncrement);
#define vTaskDelayUntil(pxPreviousWakeTime, xTimeIncrement)                                        \
    do {                                                                                           \
        (void)xTaskDelayUntil((pxPreviousWakeTime), (xTimeIncrement));                             \
    } while (0)
