// classify exported_model_embedded.xml photo.ppm: the class with the largest logit
#include <algorithm>
#include <fstream>
#include <iostream>
#include <sstream>
#include <vector>

#include <openvino/openvino.hpp>

int main(int count, char* arguments[]) {
    if (count != 3) return 2;
    std::ifstream file(arguments[2], std::ios::binary);
    std::string kind;
    size_t width, height, white;
    file >> kind >> width >> height >> white;
    file.get();
    std::vector<uint8_t> pixels(width * height * 3);  // RGB, row by row
    file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());

    ov::Core core;
    auto model = core.read_model(arguments[1]);
    auto labels = model->get_rt_info<std::string>("model_info", "labels");
    auto request = core.compile_model(model, "CPU").create_infer_request();
    request.set_input_tensor(ov::Tensor(ov::element::u8, {1, height, width, 3}, pixels.data()));
    request.infer();

    auto logits = request.get_tensor("logits");
    auto first = logits.data<float>();
    auto best = std::max_element(first, first + logits.get_size()) - first;
    std::istringstream names(labels);
    std::string label;
    for (auto place = 0; place <= best; ++place) names >> label;
    std::cout << label << std::endl;
}
