{{/* The EndpointPickerConfig. Nothing here reads a request's body, which no parser of the router knows:
the model comes from a header, all else from what pods tell of themselves. */}}
{{- define "tailorbird.pickerConfig" -}}
{{- $config := .Values.traffic.picker.config -}}
{{- $weights := dict
  "lora-affinity-scorer" $config.weights.loraAffinity
  "queue-scorer" $config.weights.queue
  "kv-cache-utilization-scorer" $config.weights.kvCache
-}}
apiVersion: {{ $config.apiVersion }}
kind: EndpointPickerConfig
plugins:
  # The pods' metrics are on their HTTP port, not on the pool's.
  - type: metrics-data-source
    parameters:
      scheme: http
      path: /metrics
      port: {{ .Values.serving.ports.http }}
      interval: {{ $config.metricsInterval }}
  # Reads them under vLLM's names.
  - type: core-metrics-extractor
    parameters:
      defaultEngine: vllm
  - type: passthrough-parser
  {{- range $scorer, $weight := $weights }}
  {{- if $weight }}
  - type: {{ $scorer }}
  {{- end }}
  {{- end }}
  - type: max-score-picker
requestHandler:
  parsers:
    - pluginRef: passthrough-parser
dataLayer:
  sources:
    - pluginRef: metrics-data-source
      extractors:
        - pluginRef: core-metrics-extractor
schedulingProfiles:
  - name: default
    plugins:
      {{- range $scorer, $weight := $weights }}
      {{- if $weight }}
      - pluginRef: {{ $scorer }}
        weight: {{ $weight }}
      {{- end }}
      {{- end }}
      - pluginRef: max-score-picker
{{- end -}}
